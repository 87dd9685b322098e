// Package revocation accepts revokes, publishes them on the kill feed, gathers the
// guards' receipts and says "closed" only when no guard honours the handle any
// more. One revoke names one handle; guards refuse everything under it without
// anybody enumerating it.
//
// Its door is New; only compositions (cmd and the all-in-one) import it.
package revocation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/journal"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/presence"
	"go.uber.org/zap"
)

// source of the service's events.
const source = "/lanyard/revocation"

// skew is how far clocks of verifiers may be behind, added to how long a kill
// entry is kept.
const skew = time.Minute

// stream is what the service needs of the bus.
type stream interface {
	Append(ctx context.Context, b bus.Batch) (bus.Ack, error)
	Publish(ctx context.Context, es ...events.Event) error
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
	Kill(ctx context.Context, name string, data []byte, id string, expect *uint64, ttl time.Duration) (uint64, error)
	SyncAlways(ctx context.Context) error
}

// watcher is the process's own guard.
type watcher interface {
	Dead(lin []lineage.Handle) (guard.Entry, bool)
	Status() guard.Status
}

// subtree is the graph.
type subtree interface {
	Settle(ctx context.Context) error
	Near(ctx context.Context) bool
	Count(ctx context.Context, handle string, at time.Time) (map[string]int64, error)
	Names(ctx context.Context, handles ...string) (map[string]events.Named, error)
	Credential(ctx context.Context, id string) (graph.Record, error)
	Walk(ctx context.Context, handle string, at time.Time, f func(graph.Record) bool) error
}

// book is the journal.
type book interface {
	Append(ctx context.Context, rec journal.Record) error
	Note(rec journal.Record)
	Flush() error
}

// revoker is the service.
type revoker struct {
	bus    stream
	guard  watcher
	graph  subtree
	book   book
	ledger *ledger.Ledger
	table  *presence.Table
	names  *lineage.Namer
	signer token.Signer
	issuer string // URL
	epoch  uint64
	now    func() time.Time
	rand   io.Reader
	log    *zap.Logger
	limits accept.Limits

	heartbeat, objective time.Duration
	keep                 time.Duration // longest token life + skew
	window               time.Duration // within which a second person approves

	standing  []journal.Held // what the journal says the feed must hold
	mended    chan struct{}  // closed when the feed holds it
	mendOnce  sync.Once
	newest    atomic.Uint64 // sequence of the newest kill entry this process published
	flights   flights       // by revocation
	capped    flights       // by tenant
	receipts  *batcher
	cleanup   *cleaner // ends managed secrets; nil in tests of what is not about them
	recovered sync.Map // ids of open revocations whose stored receipts were read
	alerted   sync.Map // ids of overdue revocations that were reported
	sync      syncCheck
}

// New builds the service. It fails when the journal's chain is broken or the
// feed's epoch went back.
func New(env service.Env) (service.Service, error) {
	signer, err := env.Keys.FeedSigner()
	if err != nil {
		return service.Service{}, fmt.Errorf("read feed key: %w", err)
	}
	if env.Namer == nil {
		return service.Service{}, errors.New("revocation needs the lineage key: put it into the data directory's keys")
	}
	dir := env.Config.Data
	j, records, err := journal.Open(filepath.Join(dir, "revocation", "journal"))
	if err != nil {
		return service.Service{}, err
	}
	epoch, err := readEpoch(filepath.Join(dir, "feed.epoch"), journal.Epoch(records))
	if err != nil {
		return service.Service{}, errors.Join(err, j.Close())
	}
	g := graph.New(env.State, env.Bus, env.Namer, env.Now)
	r := newRevoker(env, parts{bus: env.Bus, guard: env.Guard, graph: g, book: j, signer: signer, epoch: epoch,
		standing: journal.Standing(records, env.Now())})
	drills, err := openDrills(r, env)
	if err != nil {
		return service.Service{}, errors.Join(err, j.Close())
	}
	orders, err := openCommands(r, env)
	if err != nil {
		return service.Service{}, errors.Join(err, j.Close())
	}
	if r.cleanup, err = openCleaner(r, env); err != nil {
		return service.Service{}, errors.Join(err, j.Close())
	}
	return service.Service{
		Name:     "revocation",
		Handlers: []bus.Handler{bus.On(r.requested), bus.On(r.receipt), bus.On(r.cleanup.placed, events.TypeSecretTracked)},
		Tasks: append(slices.Concat(r.tasks(), drills.tasks(), r.cleanup.tasks()), r.snapshots(env), r.compaction(j), service.Task{Name: "graph", Run: g.Run},
			service.Task{Name: "commands", Run: r.every(time.Second, orders.look)},
			service.Task{Name: "horizon", Run: r.every(time.Second, g.Watch)}, service.Task{Name: "prune", Run: r.every(30*time.Second, g.Prune)}),
		Publishes: append(publishes(), drillTypes()...),
		HTTP:      r.http(env, drills.routes, r.cleanup.routes),
		Close:     func() error { return errors.Join(r.cleanup.close(), j.Close()) },
	}, nil
}

// parts are what newRevoker is given besides the environment; tests give others.
type parts struct {
	bus      stream
	guard    watcher
	graph    subtree
	book     book
	signer   token.Signer
	epoch    uint64
	standing []journal.Held
}

func newRevoker(env service.Env, p parts) *revoker {
	c := env.Config.Revocation
	r := &revoker{
		bus: p.bus, guard: p.guard, graph: p.graph, book: p.book, signer: p.signer, epoch: p.epoch, standing: p.standing,
		names: env.Namer, now: env.Now, rand: env.Rand, log: env.Log,
		limits:    accept.Limits{Breadth: c.Breadth, Cap: c.Cap, FreezeTTL: time.Duration(c.FreezeTTL), AllowUnsafe: c.AllowUnsafeServer},
		heartbeat: time.Duration(c.Heartbeat), objective: time.Duration(c.Objective),
		keep:   time.Duration(env.Config.Issuance.MaxTTL) + skew,
		issuer: env.Config.Issuer.URL,
		window: time.Duration(c.ApprovalWindow),
		mended: make(chan struct{}),
	}
	r.ledger = ledger.New(p.bus, env.Now)
	r.table = presence.New(func(point, tenant, why string) {
		r.log.Warn("guard presence refused", zap.String("point", point), zap.String("tenant", tenant), zap.String("reason", why))
	})
	r.receipts = newBatcher()
	return r
}

// publishes are the events that the service appends itself.
func publishes() []string {
	return []string{events.TypeRevocationRequested, events.TypeRevocationAccepted, events.TypeRevocationRefused, events.TypeRevocationProposed,
		events.TypeRevocationEnforced, events.TypeRevocationStuck, events.TypeSecretPlaced, events.TypeSecretUntracked, events.TypeRevocationClosed, events.TypeRevocationLifted, events.TypeAnomalyDetected}
}

func (r *revoker) tasks() []service.Task {
	return []service.Task{
		{Name: "ledger", Run: r.ledger.Run},
		{Name: "presence", Run: func(ctx context.Context) error { return r.table.Run(ctx, r.bus) }},
		{Name: "journal", Run: r.mend},
		{Name: "heartbeat", Run: r.beat},
		{Name: "receipts", Run: r.gather},
		{Name: "closure", Run: r.every(time.Second, r.closeDue)},
		{Name: "notes", Run: r.every(time.Second, func(context.Context) error { return r.book.Flush() })},
	}
}

// every makes a task that calls f at once and then each period. f's errors are
// logged; what it could not do is due again next time.
func (r *revoker) every(period time.Duration, f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		t := time.NewTicker(period)
		defer t.Stop()
		for {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("periodic work failed", zap.Error(err))
			}
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
			}
		}
	}
}

// ready waits until the log is folded, the guards are known and the kill feed
// holds what the journal promised.
func (r *revoker) ready(ctx context.Context) error {
	for _, c := range []<-chan struct{}{r.ledger.Ready(), r.table.Ready(), r.mended} {
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("wait until revocation has caught up: %w", ctx.Err())
		}
	}
	return nil
}

// syncCheck remembers for a while what the server's sync setting is.
type syncCheck struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

// unsafe is why the server's word is no promise, nil when it is one. What was
// found is kept for 30 s, a bad answer for 1 s.
func (r *revoker) unsafe(ctx context.Context) error {
	r.sync.mu.Lock()
	defer r.sync.mu.Unlock()
	age, now := 30*time.Second, r.now()
	if r.sync.err != nil {
		age = time.Second
	}
	if r.sync.at.IsZero() || now.Sub(r.sync.at) >= age {
		r.sync.at, r.sync.err = now, r.bus.SyncAlways(ctx)
	}
	return r.sync.err
}
