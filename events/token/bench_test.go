package token

import "testing"

// BenchmarkVerify is the whole check; what it costs beyond BenchmarkSignature is ours.
func BenchmarkVerify(b *testing.B) {
	for alg, s := range signers(b) {
		raw, err := s.Sign(TypAccess, sample())
		if err != nil {
			b.Fatal(err)
		}
		keys, want := NewKeySet(s.Key()), expect()
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(raw, keys, want); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	raw, err := signers(b)[ES256].Sign(TypAccess, sample())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("split", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := split(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	p, err := split(raw)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("header", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := parseHeader(p.header); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("claims", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseClaims(p.payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}
