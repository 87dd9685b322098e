package revocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/journal"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"go.uber.org/zap"
)

// errEpoch: the feed's epoch is lower than what was used before.
var errEpoch = errors.New("the kill feed's epoch went back")

// readEpoch reads the epoch of the kill feed, making the file with 1 when there is
// none. Only people raise it, when the feed's stream had to be made anew; it never
// goes back below used, the highest in the journal.
func readEpoch(path string, used uint64) (uint64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && used <= 1 {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return 0, fmt.Errorf("make directory of feed epoch: %w", err)
		}
		if err := os.WriteFile(path, []byte("1\n"), 0o600); err != nil {
			return 0, fmt.Errorf("write feed epoch: %w", err)
		}
		return 1, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read feed epoch: %w", err)
	}
	epoch, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if len(b) > 0 && err != nil {
		return 0, fmt.Errorf("read feed epoch %s: want one number: %w", path, err)
	}
	if epoch < used {
		return 0, fmt.Errorf("read feed epoch %s: %w: it says %d, the journal has %d; write %d or more into it", path, errEpoch, epoch, used, used)
	}
	return epoch, nil
}

func killSubject(handle string) string { return "nhi.kill." + handle }

// settleGuard is how long a decision waits for the process's own guard to see a
// kill entry that the log does not explain.
const settleGuard = 2 * time.Second

// standingOf is who holds a handle now and the sequence of its newest kill entry,
// which is read first: an entry published meanwhile makes the conditional publish
// fail. The log knows all but what another process is just accepting or a crash
// left half done; the process's own guard knows that.
func (r *revoker) standingOf(ctx context.Context, h lineage.Handle, now time.Time) (standing, error) {
	seq, err := r.bus.LastSequence(ctx, bus.StreamKill, killSubject(h.String()))
	if err != nil {
		return standing{}, fmt.Errorf("read kill feed at handle: %w", err)
	}
	holder, logged, freeze := r.ledger.Holder(h.String(), now)
	s := standing{sequence: seq, holder: holder}
	if seq == 0 || seq <= logged || holder != nil && holder.Mode == events.ModeRevoke {
		return s, nil
	}
	if err := r.guardHas(ctx, seq); err != nil {
		return standing{}, err
	}
	if e, dead := r.guard.Dead([]lineage.Handle{h}); dead {
		s.entry, s.holder = &e, &accept.Holder{Revocation: e.Revocation, Mode: e.Mode, Until: e.Until}
		return s, nil
	}
	s.holder = nil // a newer entry ended it
	if freeze != nil {
		s.ending = freeze.ID
	}
	return s, nil
}

// standing is what the kill feed and the log say about one handle.
type standing struct {
	holder   *accept.Holder
	entry    *guard.Entry // of the holder, when the log does not have it
	ending   string       // a freeze that the feed has ended and the log has not
	sequence uint64       // of the handle's newest kill entry, 0 when there is none
}

// guardHas waits until the process's own guard has applied sequence.
func (r *revoker) guardHas(ctx context.Context, sequence uint64) error {
	ctx, cancel := context.WithTimeout(ctx, settleGuard)
	defer cancel()
	for r.guard.Status().Sequence < sequence {
		t := time.NewTimer(2 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("wait for own guard to see kill entry %d: %w", sequence, ctx.Err())
		case <-t.C:
		}
	}
	return nil
}

// kill publishes one entry under the condition that expect is still the handle's
// newest, and journals it. Guards need not wait for the journal, so the two go side
// by side; the promise is made when both are done. A crash between them is mended
// by the next delivery of the request, which journals what it finds published.
func (r *revoker) kill(ctx context.Context, tenant string, e guard.Entry, id string, expect uint64) (uint64, error) {
	data, err := guard.SealEntry(r.signer, e)
	if err != nil {
		return 0, bus.Permanent(err)
	}
	noted := make(chan error, 1)
	go func() { noted <- r.book.Append(ctx, intent(tenant, e, data)) }()
	seq, err := r.bus.Kill(ctx, e.Handle.String(), data, id, &expect, e.Keep.Sub(r.now()))
	if journaled := <-noted; journaled != nil {
		return 0, journaled
	}
	if err != nil {
		return 0, fmt.Errorf("publish kill entry: %w", err)
	}
	r.sent(seq)
	return seq, nil
}

// again journals an entry that was found published.
func (r *revoker) again(ctx context.Context, tenant string, e guard.Entry) error {
	data, err := guard.SealEntry(r.signer, e)
	if err != nil {
		return bus.Permanent(err)
	}
	return r.book.Append(ctx, intent(tenant, e, data))
}

func intent(tenant string, e guard.Entry, data []byte) journal.Record {
	return journal.Record{Stage: journal.StageIntent, Revocation: e.Revocation, Tenant: tenant, Handle: e.Handle.String(),
		Mode: e.Mode, At: e.At, Keep: e.Keep, Epoch: e.Epoch, Entry: string(data)}
}

// sent remembers the newest entry.
func (r *revoker) sent(seq uint64) {
	for old := r.newest.Load(); seq > old && !r.newest.CompareAndSwap(old, seq); old = r.newest.Load() {
	}
}

// stored notes in the journal where an entry ended up, within a second. It only
// helps to tell a rewound feed from a crash.
func (r *revoker) stored(tenant string, e guard.Entry, seq uint64) {
	r.book.Note(journal.Record{Stage: journal.StageStored, Revocation: e.Revocation, Tenant: tenant,
		Handle: e.Handle.String(), Mode: e.Mode, At: e.At, Keep: e.Keep, Epoch: e.Epoch, Sequence: seq})
}

// compaction leaves out of the journal what no kill feed need hold any more.
func (r *revoker) compaction(j *journal.Journal) service.Task {
	return service.Task{Name: "compaction", Run: r.every(time.Hour, func(context.Context) error { return j.Compact(r.now()) })}
}

// beat states once per period that everything up to the newest known entry is
// there. It goes on whatever else fails, since guards fail closed without it.
func (r *revoker) beat(ctx context.Context) error {
	return r.every(r.heartbeat, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*r.heartbeat)
		defer cancel()
		now := r.now()
		data, err := guard.SealHeartbeat(r.signer, guard.Heartbeat{Epoch: r.epoch, Last: r.last(), Time: now})
		if err != nil {
			return err
		}
		if _, err := r.bus.Kill(ctx, guard.HeartbeatName, data, "", nil, 0); err != nil {
			return fmt.Errorf("publish heartbeat: %w", err)
		}
		return nil
	})(ctx)
}

// last is the sequence of the newest kill entry this process has seen: published
// itself, or applied by its own guard.
func (r *revoker) last() uint64 { return max(r.newest.Load(), r.guard.Status().LastEntry) }

// mend compares the kill feed with the journal once, and puts back what is missing.
// Then it stays until ctx ends.
func (r *revoker) mend(ctx context.Context) error {
	for _, h := range r.standing {
		if err := r.mendOne(ctx, h); err != nil {
			return err
		}
	}
	r.standing = nil
	r.mendOnce.Do(func() { close(r.mended) })
	<-ctx.Done()
	return nil
}

func (r *revoker) mendOne(ctx context.Context, h journal.Held) error {
	last, err := r.bus.LastSequence(ctx, bus.StreamKill, killSubject(h.Handle))
	if err != nil {
		return fmt.Errorf("compare kill feed with journal: %w", err)
	}
	if last > 0 && last >= h.Stored {
		return nil
	}
	if h.Mode == events.ModeLift && last == 0 {
		return nil // nothing there to be lifted
	}
	seq, err := r.bus.Kill(ctx, h.Handle, []byte(h.Entry), fmt.Sprintf("mend:%s:%s:%d", h.Revocation, h.Mode, last), &last, h.Keep.Sub(r.now()))
	if errors.Is(err, bus.ErrConflict) {
		return nil // someone else put an entry there meanwhile, with this one's state known
	}
	if err != nil {
		return fmt.Errorf("put kill entry back: %w", err)
	}
	r.sent(seq)
	handle, _ := lineage.Parse(h.Handle)
	r.stored(h.Tenant, guard.Entry{Revocation: h.Revocation, Handle: handle, Mode: h.Mode, At: h.At, Keep: h.Keep, Epoch: h.Epoch}, seq)
	fields := []zap.Field{zap.String("revocation", h.Revocation), zap.String("handle", h.Handle),
		zap.Uint64("journal_sequence", h.Stored), zap.Uint64("feed_sequence", last), zap.Uint64("new_sequence", seq)}
	if h.Stored == 0 {
		r.log.Warn("a crash interrupted this revocation before its kill entry was known to be stored; it is stored now", fields...)
		return nil
	}
	r.log.Error("the kill feed lost an accepted entry; it was put back from the journal. Find out what happened to the NATS store, then raise feed.epoch in the data directory and restart: guards that had seen more refuse everything until then", fields...)
	return r.alert(ctx, alert{tenant: h.Tenant, id: "rewound:" + h.Revocation, name: "kill_feed_rewound", severity: events.SeverityCritical,
		identity: h.Handle, evidence: []string{h.Revocation}, seen: h.At,
		explanation: fmt.Sprintf("The kill feed held entry %d of this handle and now ends at %d; the entry was put back as %d from the journal.", h.Stored, last, seq)})
}

// alert is what the service tells the SOC.
type alert struct {
	tenant, id, name, identity, explanation string
	severity                                events.Severity
	evidence                                []string
	seen                                    time.Time
	cause                                   *events.Event
	detector, command                       string // defaults: REV, lanyard doctor
}

func (r *revoker) alert(ctx context.Context, a alert) error {
	e, err := events.New(events.Origin{Source: source, Tenant: a.tenant, Time: a.seen, Cause: a.cause, Discriminator: a.id,
		ID: events.DeterministicID("alert", a.id)},
		events.AnomalyDetected{Alert: events.DeterministicID("alert", a.id), Detector: cmp.Or(a.detector, "REV"), Name: a.name, Severity: a.severity, Score: 90,
			Identity: a.identity, Explanation: a.explanation, Value: "open", Baseline: "closed", Count: 1, Threshold: r.objective.Seconds(),
			Evidence: a.evidence, FirstSeen: a.seen, LastSeen: a.seen, References: []string{},
			Proposed: events.Proposed{Response: "alert", Command: cmp.Or(a.command, "lanyard doctor")}})
	if err != nil {
		return err
	}
	if err := r.bus.Publish(ctx, e); err != nil {
		return fmt.Errorf("publish alert: %w", err)
	}
	return nil
}

// gone reports whether a revocation is not known to the log.
func gone(err error) bool { return errors.Is(err, ledger.ErrUnknown) }
