package publish_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/publish"
)

func ExamplePublisher_Publish() {
	// A stand-in for intake, which refuses the second event.
	intake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"accepted":1,"refused":[{"index":1,"id":"2","code":"clock_skew","reason":"too far ahead"}]}`)
	}))
	defer intake.Close()

	p, err := publish.New(publish.Config{
		URL:   intake.URL,
		Token: func(context.Context) (string, error) { return "a Lanyard access token", nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	call := func(id string, at time.Time) events.Event {
		e, err := events.New(events.Origin{Source: "/acme/shop", Tenant: "acme", Time: at, ID: id}, events.ToolCalled{Activity: events.Activity{
			Identity: "orders-agent", IdentityKind: events.KindAgent, Task: "answer-question", Tool: "read_order",
			Destination: "https://orders.example.com", Action: "read_order", Outcome: events.OutcomeSuccess,
		}})
		if err != nil {
			fmt.Println(err)
		}
		return e
	}
	err = p.Publish(context.Background(),
		call("1", time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)),
		call("2", time.Date(2027, 11, 24, 10, 0, 0, 0, time.UTC)))
	var refused *publish.RefusedError
	if errors.As(err, &refused) {
		for _, r := range refused.Refused {
			fmt.Println(r.ID, r.Code)
		}
	}
	// Output: 2 clock_skew
}
