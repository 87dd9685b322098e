package adapter

import (
	"errors"
	"testing"
)

// BenchmarkAdapters reads the example deliveries; "records/s" are those that became
// events.
func BenchmarkAdapters(b *testing.B) {
	for _, a := range Table() {
		if a.Name == "cloudtrail" {
			continue // has a benchmark on real records
		}
		b.Run(a.Name, func(b *testing.B) {
			in, n := input(example(b, a.Name)), 0
			if _, err := a.Read(in); err != nil { // the first compiles the schemas
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				items, err := a.Read(in)
				if err != nil {
					b.Fatal(err)
				}
				for _, it := range items {
					if it.Err == nil {
						n++
					} else if !errors.Is(it.Err, ErrSkip) {
						b.Fatal(it.Err)
					}
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
