package intake

import (
	"fmt"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

func TestRecent(t *testing.T) {
	event := func(tenant, source, id string) events.Event {
		t.Helper()
		e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: time.Unix(1, 0), ID: id}, events.OwnerDeparted{Owner: "jane"})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	r := newRecent(4)
	a := event("acme", "/s", "1")
	others := []events.Event{event("globex", "/s", "1"), event("acme", "/t", "1"), event("acme", "/s", "2"), event("acme", "/s1", "")}
	if got := r.unseen([]events.Event{a, a, others[0]}); len(got) != 2 || got[0].ID() != "1" {
		t.Errorf("a repeat in one request counts: %v", got)
	}
	if got := r.unseen([]events.Event{a}); len(got) != 1 {
		t.Error("an event that was not stored is taken for stored")
	}
	r.stored([]events.Event{a})
	if got := r.unseen(append(others, a)); len(got) != len(others) {
		t.Errorf("%d of %d other events are fresh", len(got), len(others))
	}
	for i := range 3 { // fill the first generation
		r.stored([]events.Event{event("acme", "/s", fmt.Sprint("x", i))})
	}
	if len(r.unseen([]events.Event{a})) != 0 {
		t.Error("forgot an event too early")
	}
	for i := range 8 {
		r.stored([]events.Event{event("acme", "/s", fmt.Sprint("y", i))})
	}
	if len(r.unseen([]events.Event{a})) != 1 || len(r.now)+len(r.old) > 8 {
		t.Errorf("%d events are remembered, want at most 8", len(r.now)+len(r.old))
	}
}
