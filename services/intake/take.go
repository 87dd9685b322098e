package intake

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/wire"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// Result is the answer to a request whose events were each decided on: 202.
type Result struct {
	Accepted int       `json:"accepted"` // durable; repeats of one event count each time
	Refused  []Refusal `json:"refused"`
	Skipped  int       `json:"skipped,omitempty"` // in order, but states no act of an identity
}

// Refusal says why one event was not accepted.
type Refusal struct {
	Index  int    `json:"index"` // position in the request, from 0
	ID     string `json:"id,omitempty"`
	Code   string `json:"code"`   // stable name
	Reason string `json:"reason"` // for people
}

// sender is the authenticated caller and the tenant it acts for.
type sender struct {
	claims   token.Claims
	tenant   string
	path     string
	instance string // which cluster, account or installation, as the sender says
	whole    bool   // it sends traces whole
	door     door
}

// refused is one event or record that is not accepted.
type refused struct {
	index int
	id    string
	data  []byte
	err   error
}

// batch is a request after every event in it was decided on.
type batch struct {
	single   bool // one event, whose refusal is the whole answer
	accepted []events.Event
	skipped  int // in order, but no act of an identity
	refused  []refused
	body     []byte // what was read, when nothing could be decided
}

// events takes CloudEvents.
func (s *server) events(w http.ResponseWriter, r *http.Request, from *sender) (batch, error) {
	body, err := wire.ReadBody(w, r, s.limit, false)
	if err != nil {
		return batch{}, err
	}
	q, err := wire.Parse(r.Header, body, maxItems)
	if err != nil {
		return batch{body: body}, err
	}
	b := batch{single: !q.Batch}
	for i, text := range q.Items {
		e, err := events.Receive(text, from.tenant)
		if err == nil {
			err = q.Agree(e)
		}
		if err == nil {
			err = s.admit(e, *from)
		}
		b.add(i, text, e, err)
	}
	return b, nil
}

// records takes the raw records of an adapter's source.
func (s *server) records(a adapter.Adapter) func(http.ResponseWriter, *http.Request, *sender) (batch, error) {
	return func(w http.ResponseWriter, r *http.Request, from *sender) (batch, error) {
		if err := recordsType(r.Header); err != nil {
			return batch{}, err
		}
		body, err := wire.ReadBody(w, r, s.limit, true)
		if err != nil {
			return batch{}, err
		}
		return s.readAll(a, r, body, from)
	}
}

// readAll decides on every record of a body that came with a request.
func (s *server) readAll(a adapter.Adapter, r *http.Request, body []byte, from *sender) (batch, error) {
	from.instance = hint(r, "instance")
	from.whole = hint(r, "traces") == "whole"
	if len(from.instance) > maxInstance {
		return batch{body: body}, fmt.Errorf("read query: %w: instance is longer than %d characters", events.ErrEnvelope, maxInstance)
	}
	b, err := s.read(a, body, *from)
	if err != nil {
		return batch{body: body}, err
	}
	return b, nil
}

// hint is what the sender says of a delivery, in the query or, where the protocol has no
// room for one, in a header: Lanyard-Instance, Lanyard-Traces.
func hint(r *http.Request, name string) string {
	return cmp.Or(r.URL.Query().Get(name), r.Header.Get("Lanyard-"+name))
}

// read decides on every record of a body.
func (s *server) read(a adapter.Adapter, body []byte, from sender) (batch, error) {
	items, err := a.Read(adapter.Input{Body: body, Tenant: from.tenant, Seen: s.now(), Limit: maxItems, Key: s.key, Instance: from.instance, WholeTraces: from.whole})
	if err != nil {
		return batch{}, err
	}
	var b batch
	for i, it := range items {
		if errors.Is(it.Err, adapter.ErrSkip) {
			b.skipped++
			continue
		}
		if it.Err == nil {
			it.Err = s.admit(it.Event, from)
		}
		b.add(i, it.Raw, it.Event, it.Err)
	}
	return b, nil
}

// recordsType accepts what files of records are usually sent as.
func recordsType(h http.Header) error {
	values := h.Values("Content-Type")
	if len(values) > 1 {
		return fmt.Errorf("read headers: %w: Content-Type stands %d times", events.ErrHeaders, len(values))
	}
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err == nil {
		switch mediaType {
		case "application/json", "application/x-ndjson", "application/jsonl", "application/gzip", "application/x-gzip", "application/octet-stream", "text/plain":
			return nil
		}
	}
	return fmt.Errorf("read headers: %w: want application/json, application/x-ndjson or application/gzip", events.ErrContentType)
}

func (b *batch) add(index int, text []byte, e events.Event, err error) {
	if err == nil {
		_, err = events.Encode(e) // what was filled in may have made it too large
	}
	if err != nil {
		b.refused = append(b.refused, refused{index: index, id: peekID(text), data: text, err: err})
		return
	}
	b.accepted = append(b.accepted, e)
}

// admit checks what the decoder cannot know: the caller's rights and the clock.
func (s *server) admit(e events.Event, from sender) error {
	if e.Time().Year() < 2000 {
		return fmt.Errorf("admit event: %w: it is in the year %d; events before 2000 come from a clock that was not set", adapter.ErrTime, e.Time().Year())
	}
	info, _ := events.Lookup(e.Type())
	if info.Channel != events.ChannelIn {
		return fmt.Errorf("admit event: %w: %s", errNotAdmitted, e.Type())
	}
	if err := rights(e, from.claims); err != nil {
		return fmt.Errorf("admit event: %w", err)
	}
	if late := e.Time().Sub(s.now()); late > s.skew {
		return fmt.Errorf("admit event: %w: %s ahead of this clock, at most %s are allowed", events.ErrClockSkew, late.Round(1e9), s.skew)
	}
	return nil
}

// rights keeps the door for events from being a way around the other doors: asking
// for a revocation takes the scope for it and is done in one's own name, as is ending a
// task, and nobody declares an identity that may hold more of Lanyard's own scopes than
// the caller.
func rights(e events.Event, c token.Claims) error {
	switch e.Type() {
	case events.TypeRevocationRequested:
		if !service.HasScope(c, service.ScopeRevoke) {
			return fmt.Errorf("%w: asking for a revocation takes %s", errScope, service.ScopeRevoke)
		}
		p, err := events.As[events.RevocationRequested](e)
		if err != nil {
			return err
		}
		if p.RequestedBy != c.Subject && !service.Operator(c) {
			return fmt.Errorf("%w: requested_by must be %q", errRequester, c.Subject)
		}
	case events.TypeTaskEnded:
		p, err := events.As[events.TaskEnded](e)
		if err != nil {
			return err
		}
		if p.By != c.Subject && !service.Operator(c) {
			return fmt.Errorf("%w: by must be %q", errRequester, c.Subject)
		}
	case events.TypeIdentityDeclared:
		p, err := events.As[events.IdentityDeclared](e)
		if err != nil {
			return err
		}
		for _, scope := range p.Scopes {
			if strings.HasPrefix(scope, "lanyard.") && !service.HasScope(c, scope) {
				return fmt.Errorf("%w: the caller does not hold %s and cannot declare an identity that may", errScope, scope)
			}
		}
	}
	return nil
}

// bury stores a dead letter per refused event, several at once.
func (s *server) bury(ctx context.Context, from sender, list []refused) error {
	const atOnce = 32
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
	)
	slots := make(chan struct{}, atOnce)
	for _, x := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := s.bus.Bury(ctx, bus.Dead{Service: Name, Subject: "nhi.in." + from.tenant + ".refused",
				Code: code(x.err), Reason: x.err.Error(), At: s.now(), Data: letter(x, from)})
			if err != nil {
				mu.Lock()
				first = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if first != nil {
		return fmt.Errorf("bury refused events: %w", first)
	}
	return nil
}

// letter is what is kept of a refused event: its text as it came. An event whose text
// alone is in order was refused for who sent it; it is wrapped, so that replaying the
// dead letter cannot publish it after all.
func letter(x refused, from sender) []byte {
	if code(x.err) == "clock_skew" {
		return x.data
	}
	e, err := events.Decode(x.data)
	if err != nil || events.Validate(e) != nil {
		return x.data
	}
	kept := struct {
		Tenant string `json:"sent_by_tenant"`
		Client string `json:"sent_by"`
		Text   string `json:"text,omitempty"`
		Base64 string `json:"base64,omitempty"`
	}{Tenant: from.tenant, Client: from.claims.Subject, Text: string(x.data)}
	if !utf8.Valid(x.data) {
		kept.Text, kept.Base64 = "", base64.StdEncoding.EncodeToString(x.data)
	}
	out, err := json.Marshal(kept)
	if err != nil { // strings always encode
		return nil
	}
	return out
}

// peekID finds the id of a refused text for the answer, as far as it can be read.
func peekID(text []byte) string {
	if len(text) > adapter.MaxRecord {
		return ""
	}
	var v struct {
		ID      any `json:"id"`
		EventID any `json:"eventID"`
	}
	if !jsontext.Value(text).IsValid() || json.Unmarshal(text, &v) != nil {
		return ""
	}
	for _, id := range []any{v.ID, v.EventID} {
		if s, ok := id.(string); ok && s != "" {
			return fmt.Sprintf("%.256s", s)
		}
	}
	return ""
}
