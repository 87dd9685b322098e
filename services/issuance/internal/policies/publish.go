package policies

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// partSize is the most that the text of one part takes in JSON, in bytes, so that its
// event stays below events.MaxSize.
const partSize = 40 << 10

// Log is what publishing needs of the bus.
type Log interface {
	Append(ctx context.Context, b bus.Batch) (bus.Ack, error)
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// publish stores set and its activation as one batch, if nothing about policies was
// stored after sequence after. It returns the sequence of the activation.
func publish(ctx context.Context, log Log, rand io.Reader, now time.Time, set *policy.Set, a events.PolicyActivated, after uint64) (uint64, error) {
	id := make([]byte, 16)
	if _, err := io.ReadFull(rand, id); err != nil {
		return 0, fmt.Errorf("draw id: %w", err)
	}
	parts := split(set)
	a.Version, a.Policies, a.Parts = set.Version(), len(set.Policies()), len(parts)
	payloads := make([]events.Payload, 0, len(parts)+1)
	for _, p := range parts {
		payloads = append(payloads, p)
	}
	batch := bus.Batch{Expect: &bus.Expect{Filter: filter, Sequence: after}}
	for i, p := range append(payloads, a) {
		e, err := events.New(events.Origin{Source: registry.Source, Tenant: service.SystemTenant, Time: now,
			Discriminator: fmt.Sprintf("%s %d", hex.EncodeToString(id), i)}, p)
		if err != nil {
			return 0, err
		}
		batch.Events = append(batch.Events, e)
	}
	ack, err := log.Append(ctx, batch)
	if err != nil {
		return 0, fmt.Errorf("store policies: %w", err)
	}
	return ack.Sequence, nil
}

// split makes the parts of a set, at least one per file.
func split(set *policy.Set) []events.PolicyPublished {
	var parts []events.PolicyPublished
	for _, f := range set.Files() {
		text := f.Text
		for {
			n := fitting(text)
			parts = append(parts, events.PolicyPublished{Version: set.Version(), File: f.Name, Text: text[:n]})
			if text = text[n:]; text == "" {
				break
			}
		}
	}
	for i := range parts {
		parts[i].Part, parts[i].Parts = i+1, len(parts)
	}
	return parts
}

// fitting is how many bytes of text fit a part, whole runes.
func fitting(text string) int {
	size := 0
	for i, r := range text {
		switch {
		case r == '"', r == '\\', r == '\n', r == '\r', r == '\t':
			size += 2
		case r < 0x20, r == '<', r == '>', r == '&', r == '\u2028', r == '\u2029':
			size += 6
		default:
			size += len(string(r))
		}
		if size > partSize {
			return i
		}
	}
	return len(text)
}
