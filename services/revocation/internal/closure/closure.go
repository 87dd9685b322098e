// Package closure decides when a revocation is complete and sums it up. Everything
// in it is pure. Only revocation imports it.
package closure

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"golang.org/x/mod/sumdb/tlog"
)

// Answer is what one point has answered so far.
type Answer struct {
	events.RevocationEnforced
	Until *time.Time // for unsupported_until
}

// Settled reports whether the point no longer honours the handle at now.
func (a Answer) Settled(now time.Time) bool {
	switch a.Outcome {
	case events.ReceiptEnforced, events.ReceiptAlreadyDead, events.ReceiptLeaseExpired:
		return true
	case events.ReceiptUnsupportedUntil:
		return a.Until != nil && !now.Before(*a.Until)
	}
	return false
}

// Missing is every expected guard that may still honour the handle at now.
func Missing(expected []events.ExpectedGuard, answers map[string]Answer, now time.Time) []events.ExpectedGuard {
	var out []events.ExpectedGuard
	for _, g := range expected {
		if a, ok := answers[g.Point]; !ok || !a.Settled(now) {
			out = append(out, g)
		}
	}
	return out
}

// Expired is those of Missing whose lease ran out at now: they refuse by
// themselves. A point that answered with a time is waited for until then.
func Expired(expected []events.ExpectedGuard, answers map[string]Answer, now time.Time) []events.ExpectedGuard {
	var out []events.ExpectedGuard
	for _, g := range Missing(expected, answers, now) {
		if answers[g.Point].Outcome != events.ReceiptUnsupportedUntil && !now.Before(g.LeaseEnd) {
			out = append(out, g)
		}
	}
	return out
}

// Outcomes counts the answers by outcome.
func Outcomes(answers map[string]Answer) map[events.ReceiptOutcome]int {
	out := map[events.ReceiptOutcome]int{}
	for _, a := range answers {
		out[a.Outcome]++
	}
	return out
}

// LastMS is the longest latency of a receipt, in milliseconds; lease ends are no
// receipts.
func LastMS(answers map[string]Answer) float64 {
	var last float64
	for _, a := range answers {
		if a.Outcome != events.ReceiptLeaseExpired {
			last = max(last, a.LatencyMS)
		}
	}
	return last
}

// Root is the RFC 6962 (section 2.1) Merkle tree hash over the answers in base64.
// The leaves are in order of the point's name; a leaf is
// point NUL outcome NUL compact JWS.
func Root(answers map[string]Answer) (string, error) {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			if x < 0 || x >= int64(len(stored)) {
				return nil, fmt.Errorf("read node %d of %d", x, len(stored))
			}
			out[i] = stored[x]
		}
		return out, nil
	})
	points := slices.Sorted(maps.Keys(answers))
	for i, p := range points {
		hashes, err := tlog.StoredHashes(int64(i), Leaf(answers[p].RevocationEnforced), reader)
		if err != nil {
			return "", fmt.Errorf("add leaf %d: %w", i, err)
		}
		stored = append(stored, hashes...)
	}
	root, err := tlog.TreeHash(int64(len(points)), reader)
	if err != nil {
		return "", fmt.Errorf("hash tree of %d receipts: %w", len(points), err)
	}
	return root.String(), nil
}

// Leaf is the text of one leaf of Root.
func Leaf(e events.RevocationEnforced) []byte {
	return []byte(strings.Join([]string{e.Point, string(e.Outcome), e.Receipt}, "\x00"))
}

// Until reads the time of an unsupported_until answer out of its receipt, whose
// signature was checked before it was put on the log.
func Until(p events.RevocationEnforced) *time.Time {
	if p.Outcome != events.ReceiptUnsupportedUntil {
		return nil
	}
	parts := strings.Split(p.Receipt, ".")
	if len(parts) != 3 {
		return nil
	}
	var body struct {
		Until *time.Time `json:"until"`
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(b, &body) != nil {
		return nil
	}
	return body.Until
}
