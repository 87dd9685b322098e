package closure

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func answer(point string, o events.ReceiptOutcome, until *time.Time) Answer {
	return Answer{RevocationEnforced: events.RevocationEnforced{Point: point, Outcome: o, Receipt: "jws-" + point}, Until: until}
}

func TestMissingAndExpired(t *testing.T) {
	g := []events.ExpectedGuard{{Point: "a", LeaseEnd: now.Add(16 * time.Second)}}
	for _, c := range []struct {
		name             string
		answer           *Answer
		at               time.Duration
		missing, expired int
	}{
		{"nothing yet", nil, 0, 1, 0},
		{"just before the lease ends", nil, 16*time.Second - 1, 1, 0},
		{"lease over", nil, 16 * time.Second, 1, 1},
		{"enforced", new(answer("a", events.ReceiptEnforced, nil)), 0, 0, 0},
		{"already dead", new(answer("a", events.ReceiptAlreadyDead, nil)), 0, 0, 0},
		{"lease stated", new(answer("a", events.ReceiptLeaseExpired, nil)), 20 * time.Second, 0, 0},
		{"refused is no enforcement", new(answer("a", events.ReceiptRefused, nil)), 0, 1, 0},
		{"refused, lease over", new(answer("a", events.ReceiptRefused, nil)), 16 * time.Second, 1, 1},
		{"unreachable", new(answer("a", events.ReceiptUnreachable, nil)), 0, 1, 0},
		{"unsupported until later", new(answer("a", events.ReceiptUnsupportedUntil, new(now.Add(time.Hour)))), time.Minute, 1, 0},
		{"unsupported until now", new(answer("a", events.ReceiptUnsupportedUntil, new(now.Add(time.Hour)))), time.Hour, 0, 0},
	} {
		answers := map[string]Answer{}
		if c.answer != nil {
			answers["a"] = *c.answer
		}
		at := now.Add(c.at)
		if m, e := len(Missing(g, answers, at)), len(Expired(g, answers, at)); m != c.missing || e != c.expired {
			t.Errorf("%s: %d missing, %d expired; want %d, %d", c.name, m, e, c.missing, c.expired)
		}
	}
}

// mth is the Merkle tree hash by the book (RFC 6962 section 2.1).
func mth(leaves [][]byte) []byte {
	switch n := len(leaves); n {
	case 0:
		h := sha256.Sum256(nil)
		return h[:]
	case 1:
		h := sha256.Sum256(append([]byte{0}, leaves[0]...))
		return h[:]
	default:
		k := 1
		for 2*k < n {
			k *= 2
		}
		h := sha256.Sum256(append(append([]byte{1}, mth(leaves[:k])...), mth(leaves[k:])...))
		return h[:]
	}
}

func TestRootIsRFC6962(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 70).Draw(t, "n")
		answers, leaves := map[string]Answer{}, [][]byte{}
		for i := range n {
			a := answer(fmt.Sprintf("p%03d", i), events.ReceiptEnforced, nil)
			answers[a.Point] = a
			leaves = append(leaves, []byte(a.Point+"\x00enforced\x00jws-"+a.Point))
		}
		got, err := Root(answers)
		if err != nil {
			t.Fatal(err)
		}
		if want := base64.StdEncoding.EncodeToString(mth(leaves)); got != want {
			t.Fatalf("root over %d leaves is %s, want %s", n, got, want)
		}
	})
}

func TestRootTellsReceiptsApart(t *testing.T) {
	a, err := Root(map[string]Answer{"a": answer("a", events.ReceiptEnforced, nil)})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Root(map[string]Answer{"a": answer("a", events.ReceiptLeaseExpired, nil)})
	if err != nil || a == b {
		t.Fatalf("two outcomes, one root %s (%v)", a, err)
	}
}
