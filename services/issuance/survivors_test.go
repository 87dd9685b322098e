package issuance

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// TestNoTokenSurvives issues and revokes at the same instant, many times over, from
// several clients. No token that was handed out in such a race is alive once its guard
// has heard of the revocation, and none is handed out afterwards. LANYARD_RACE_ROUNDS
// sets the rounds (make test-issue-race: 100,000).
func TestNoTokenSurvives(t *testing.T) {
	rounds := 400
	if s := os.Getenv("LANYARD_RACE_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		rounds = n
	}
	const clients = 8
	w := newWorld(t)
	for c := range clients {
		w.declare("acme", agent(name("racer", c)))
	}
	var next, issued, refused atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			usual := w.usual(name("racer", c))
			for i := next.Add(1); i <= int64(rounds) && !t.Failed(); i = next.Add(1) {
				if w.race(name("racer", c), fmt.Sprintf("race-%d", i), usual) {
					issued.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d rounds: the token was handed out in %d, refused in %d, alive afterwards in 0", rounds, issued.Load(), refused.Load())
	if !t.Failed() {
		require.Positive(t, issued.Load(), "issuance never came first")
		require.Positive(t, refused.Load(), "the revocation never came first")
	}
}

// usual is what a request of the identity takes when nothing races with it.
func (w *world) usual(identity string) time.Duration {
	start := time.Now()
	for range 8 {
		if a := w.post(w.bearer(identity)); a.status != 200 {
			w.t.Errorf("%s gets no token: %s: %s", identity, a.Error, a.Description)
		}
	}
	return time.Since(start) / 8
}

// race revokes a task at some moment of a request for a credential, and reports
// whether that was handed out.
func (w *world) race(identity, task string, usual time.Duration) bool {
	form := w.bearer(identity)
	form.Set("task", task)
	kill := target(lineage.KindTask, "acme", task)
	h := w.namer.Name(lineage.KindTask, "acme", task)
	revoked := make(chan struct{})
	go func() {
		defer close(revoked)
		<-time.After(rand.N(2 * usual))
		w.kill(h, "rev-"+task, events.ModeRevoke)
		w.record(kill, "rev-"+task, events.ModeRevoke)
	}()
	a := w.post(form)
	<-revoked
	w.eventually("the guard knows", func() bool { _, dead := w.guard.Dead([]lineage.Handle{h}); return dead })
	if a.status == 200 {
		if _, dead := w.guard.Dead(w.claims(a.AccessToken).Lineage); !dead {
			w.t.Errorf("%s: a token survives the revocation of its task", task)
		}
	}
	if again := w.post(form); again.status == 200 {
		w.t.Errorf("%s: a token was handed out after the revocation", task)
	}
	return a.status == 200
}
