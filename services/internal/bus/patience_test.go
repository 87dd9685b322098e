package bus

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &patience{period: time.Second}
		for range 3 {
			for _, after := range []time.Duration{0, 300 * time.Millisecond, 1100 * time.Millisecond} {
				<-time.After(after)
				start := time.Now()
				<-p.over()
				if took := time.Since(start); took < time.Second || took > 2*time.Second {
					t.Errorf("waited %v", took)
				}
			}
			first, start := p.over(), time.Now()
			<-time.After(1500 * time.Millisecond)
			second := p.over()
			<-first
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("the first waited %v", took)
			}
			select {
			case <-second:
				t.Error("the second waited less than a period")
			default:
			}
			<-second
			<-time.After(10 * time.Second) // nobody asks
		}
	})
}
