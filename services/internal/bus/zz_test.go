package bus

import (
	"fmt"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go/jetstream"
)

func TestZZ(t *testing.T) {
	c := testBus(t)
	var es []events.Event
	for i := range 500 {
		es = append(es, risk(t, "acme", fmt.Sprint("agent-", i), i))
	}
	s := time.Now()
	if err := c.Publish(t.Context(), es...); err != nil {
		t.Fatal(err)
	}
	t.Log("first", time.Since(s))
	items, _ := newItems(es)
	m := c.committers[StreamLog]
	s = time.Now()
	if _, err := m.missing(items[:50]); err != nil {
		t.Fatal(err)
	}
	t.Log("missing of 50, as is", time.Since(s))
	s = time.Now()
	fs := make([]jetstream.PubAckFuture, len(items))
	for i, it := range items {
		msg := it.message()
		expectHeaders(msg.Header, it.subject, impossible)
		msg.Header["Nats-Batch-Id"] = []string{fmt.Sprint("zz", i)}
		msg.Header["Nats-Batch-Sequence"] = []string{"1"}
		msg.Header["Nats-Batch-Commit"] = []string{"1"}
		var err error
		if fs[i], err = c.js.PublishMsgAsync(msg); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[string]int{}
	for _, f := range fs {
		select {
		case a := <-f.Ok():
			kinds[fmt.Sprint(a)]++
		case err := <-f.Err():
			kinds[err.Error()]++
		}
	}
	t.Log("pipelined 500 atomic probes", time.Since(s), kinds)
	s = time.Now()
	for i, it := range items {
		var err error
		if fs[i], err = c.js.PublishMsgAsync(it.message()); err != nil {
			t.Fatal(err)
		}
	}
	kinds = map[string]int{}
	for _, f := range fs {
		select {
		case a := <-f.Ok():
			kinds[fmt.Sprint(a.Duplicate)]++
		case err := <-f.Err():
			kinds[err.Error()]++
		}
	}
	t.Log("pipelined 500 plain", time.Since(s), kinds)
}
