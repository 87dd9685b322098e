package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
)

const (
	cleanupName  = "saas"               // of the downstream
	cleanupDelay = 2 * time.Millisecond // of each of its answers
	cleanupAtOne = 8                    // calls at once, the default of a downstream
	cleanupView  = "secrets/1"          // the projection of managed secrets
)

// Cascade measures how many managed secrets a second one revocation ends: from the
// request until its closure is on the log, with a signed receipt for each on a server
// that syncs every write. The limit is the same calls of the downstream in a bare loop.
// Server, Redis, downstream and service share the machine.
func Cascade(ctx context.Context, o Options) (rows []Row, err error) {
	n := 5_000
	if o.Short {
		n = 200
	}
	d, err := startDownstream()
	if err != nil {
		return nil, err
	}
	defer d.close()
	_, err = withServer(ctx, o, true, func(s *server.Server, c *bus.Conn) (float64, error) {
		r, err := newRevokeRig(ctx, o, s, c, config.Downstream{Name: cleanupName, Kind: "http", Tenants: []string{benchTenant}, URL: d.url + "{account}",
			Local: true, Concurrency: cleanupAtOne})
		if err != nil {
			return 0, err
		}
		defer r.close()
		rows, err = cascadeCleanup(ctx, o, r, d, n)
		return 0, err
	})
	return rows, err
}

func cascadeCleanup(ctx context.Context, o Options, r *revokeRig, d *downstream, n int) ([]Row, error) {
	if err := r.attach(ctx, 0); err != nil {
		return nil, err
	}
	if err := r.tasks(ctx, max(o.Rounds, 1)); err != nil {
		return nil, err
	}
	round := 0
	ours := func(ctx context.Context) (float64, error) {
		defer func() { round++ }()
		return r.cleanup(ctx, d, r.task(round), n)
	}
	a, b, err := Compare(ctx, o, "cascade.cleanup", ours, func(ctx context.Context) (float64, error) { return d.bare(ctx, n) })
	if err != nil {
		return nil, err
	}
	limit := fmt.Sprintf("the same %d calls of %v each and nothing else, %d at once", n, cleanupDelay, cleanupAtOne)
	return []Row{Ratio("cascade.cleanup", "secrets/s", limit, a, b, 0.8, "min")}, nil
}

// cleanup places n secrets under a task, revokes it, and returns how many a second
// were ended until it was closed.
func (r *revokeRig) cleanup(ctx context.Context, d *downstream, task string, n int) (float64, error) {
	if err := r.secrets(ctx, task, n); err != nil {
		return 0, err
	}
	before := d.calls.Load()
	start := time.Now()
	id, _, err := r.post(ctx, lineage.KindTask, task, 0)
	if err != nil {
		return 0, err
	}
	err = r.poll(ctx, func() (bool, error) {
		w := r.call(ctx, http.MethodGet, "/v1/revocations/"+id+"?wait=30s", nil)
		if w.Code != http.StatusOK {
			return false, fmt.Errorf("read revocation %s: %d %s", id, w.Code, w.Body)
		}
		return bytes.Contains(w.Body.Bytes(), []byte(`"state":"closed"`)), nil
	})
	took := time.Since(start)
	if got := d.calls.Load() - before; err == nil && got != int64(n) {
		err = fmt.Errorf("the downstream was called %d times for %d secrets", got, n)
	}
	return float64(n) / took.Seconds(), err
}

// secrets puts n tracked secrets under a task on the log and waits until revocation
// holds them and has compared them with what is dead.
func (r *revokeRig) secrets(ctx context.Context, task string, n int) error {
	now := time.Now().UTC()
	above := r.named(lineage.KindTask, task)
	batch := make([]events.Event, n)
	for i := range batch {
		id := task + "-secret-" + strconv.Itoa(i)
		e, err := events.New(events.Origin{Source: "/bench", Tenant: benchTenant, Time: now, ID: id},
			events.SecretTracked{Secret: id, Handle: r.named(lineage.KindCredential, id).Handle, Identity: "agent", Downstream: cleanupName, Account: id,
				Owner: "team-1", Lineage: []string{above.Handle}, Names: []events.Named{above}, TrackedAt: now})
		if err != nil {
			return err
		}
		batch[i] = e
	}
	if err := r.env.Bus.Publish(ctx, batch...); err != nil {
		return err
	}
	last, err := r.env.Bus.LastSequence(ctx, bus.StreamLog, events.LogSubject("*", "secret", "tracked", "*"))
	if err != nil {
		return err
	}
	if err := r.env.State.Wait(ctx, cleanupView, last); err != nil {
		return err
	}
	return r.poll(ctx, func() (bool, error) {
		left, err := r.env.State.Client().SCard(ctx, state.Prefix(cleanupView)+"fresh").Result()
		return left == 0, err
	})
}

// downstream is a system whose accounts are ended by DELETE, each in cleanupDelay.
type downstream struct {
	url    string
	calls  atomic.Int64
	server *http.Server
	client *http.Client
}

func startDownstream() (*downstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for downstream: %w", err)
	}
	d := &downstream{url: "http://" + l.Addr().String() + "/", client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: cleanupAtOne}}}
	d.server = &http.Server{Handler: http.HandlerFunc(d.end), ReadHeaderTimeout: time.Minute}
	go func() { _ = d.server.Serve(l) }() // ends with Close
	return d, nil
}

func (d *downstream) close() {
	d.client.CloseIdleConnections()
	_ = d.server.Close()
}

func (d *downstream) end(w http.ResponseWriter, q *http.Request) {
	d.calls.Add(1)
	select {
	case <-time.After(cleanupDelay):
		w.WriteHeader(http.StatusNoContent)
	case <-q.Context().Done():
	}
}

// bare makes n calls and returns how many a second.
func (d *downstream) bare(ctx context.Context, n int) (float64, error) {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for range cleanupAtOne {
		g.Go(func() error {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := d.call(ctx, "account-"+strconv.FormatInt(i, 10)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(n) / time.Since(start).Seconds(), err
}

func (d *downstream) call(ctx context.Context, account string) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodDelete, d.url+account, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := d.client.Do(q)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("end account: status %d", resp.StatusCode)
	}
	return err
}
