package intake

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/publish"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// TestPublisher uses intake the way a product does.
func TestPublisher(t *testing.T) {
	w := newWorld(t)
	asked := 0
	p, err := publish.New(publish.Config{URL: w.url, Token: func(context.Context) (string, error) {
		if asked++; asked == 1 {
			return "not a token", nil // the publisher asks again after the 401
		}
		return w.acme(), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	var list []events.Event
	for i := range 1000 {
		at := time.Now()
		if i == 700 {
			at = at.Add(time.Hour)
		}
		e, err := events.New(events.Origin{Source: "/acme/shop", Tenant: "acme", Time: at, ID: fmt.Sprint("call-", i)}, events.ToolCalled{Activity: events.Activity{
			Identity: "agent", Task: "t", Tool: "read", Destination: "orders", Action: "read", Outcome: events.OutcomeSuccess}})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	err = p.Publish(t.Context(), list...)
	var refused *publish.RefusedError
	if !errors.As(err, &refused) || len(refused.Refused) != 1 || refused.Refused[0].Index != 700 || refused.Refused[0].ID != "call-700" || refused.Refused[0].Code != "clock_skew" {
		t.Errorf("error is %v", err)
	}
	if n := len(w.stored()); n != 999 {
		t.Errorf("%d events are stored, want 999", n)
	}
	if err := p.Publish(t.Context(), list[:700]...); err != nil {
		t.Errorf("publishing again: %v", err)
	}
	if n := len(w.stored()); n != 999 {
		t.Errorf("%d events are stored after publishing again, want 999", n)
	}
	reader, err := publish.New(publish.Config{URL: w.url, Token: func(context.Context) (string, error) { return w.token("acme", "shop", service.ScopeRead), nil }})
	if err != nil {
		t.Fatal(err)
	}
	err = reader.Publish(t.Context(), list[0])
	var whole *publish.ResponseError
	if !errors.As(err, &whole) || whole.Status != 403 || whole.Code != "insufficient_scope" {
		t.Errorf("error is %v", err)
	}
}

// BenchmarkEvents measures one batch of 500 events through HTTP, decoder, schema and
// the synced store.
func BenchmarkEvents(b *testing.B) {
	w := newWorld(b)
	bearer := w.acme()
	n := 0
	for b.Loop() {
		body := []byte{'['}
		for i := range 500 {
			if i > 0 {
				body = append(body, ',')
			}
			n++
			body = append(body, departed(fmt.Sprint("bench-", n))...)
		}
		if r := w.post("/v1/events", bearer, map[string]string{"Content-Type": "application/cloudevents-batch+json"}, append(body, ']')).result(b); r.Accepted != 500 {
			b.Fatalf("accepted %d", r.Accepted)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
