package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const day = 24 * time.Hour

// dedupe is the window within which a message id is stored once.
const dedupe = 10 * time.Minute

// streamTable is every stream with its settings, a read-only table. All are on
// file. Streams that hold promises deny deletes and purges. NHI_TIMER cannot: the
// server removes a schedule when it fired.
var streamTable = []jetstream.StreamConfig{
	{Name: StreamIn, Subjects: []string{"nhi.in.>"}, MaxAge: 7 * day, Discard: jetstream.DiscardNew,
		Description: "what products publish"},
	{Name: StreamLog, Subjects: []string{"nhi.log.>"}, DenyDelete: true, DenyPurge: true, Discard: jetstream.DiscardNew,
		Description: "lifecycle facts, the audit record"},
	{Name: StreamKill, Subjects: []string{"nhi.kill.>"}, MaxMsgsPerSubject: 1, AllowMsgTTL: true, DenyDelete: true, DenyPurge: true,
		Discard: jetstream.DiscardNew, RePublish: &jetstream.RePublish{Source: "nhi.kill.>", Destination: "nhi.feed.>"},
		Description: "the kill feed"},
	{Name: StreamAlert, Subjects: []string{"nhi.alert.>"}, MaxAge: 90 * day, Description: "what a SOC subscribes to"},
	{Name: StreamReceipt, Subjects: []string{"nhi.receipt.>"}, MaxAge: 30 * day, Discard: jetstream.DiscardNew, Description: "signed receipts of guards"},
	{Name: StreamGuard, Subjects: []string{"nhi.guard.>"}, MaxAge: time.Hour, MaxMsgsPerSubject: 1, Description: "presence of guards"},
	{Name: StreamTimer, Subjects: []string{"nhi.timer.>"}, AllowMsgSchedules: true, AllowMsgTTL: true, AllowRollup: true, Description: "durable timers"},
	{Name: StreamDead, Subjects: []string{"nhi.dead.>"}, MaxAge: 365 * day, Discard: jetstream.DiscardNew, Description: "dead letters"},
	{Name: StreamLease, Subjects: []string{"nhi.lease.>"}, MaxMsgsPerSubject: 1, AllowMsgTTL: true, Description: "who runs an exclusive service"},
	{Name: StreamSnap, Subjects: []string{"nhi.snap.>"}, MaxMsgsPerSubject: 1, AllowMsgTTL: true, Description: "snapshots of the kill feed"},
}

// Options of Provision.
type Options struct {
	Replicas int // 1 or 3
}

// Provision creates or updates every stream. It is idempotent and refuses to
// weaken a stream: what is stronger than asked (a longer age, more replicas of a
// stream that was asked for with none given) stays, and asking for fewer replicas
// than a stream has is an error.
func Provision(ctx context.Context, c *Conn, o Options) error {
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	for _, want := range streamTable {
		want.Storage = jetstream.FileStorage
		want.Retention = jetstream.LimitsPolicy
		want.Replicas = o.Replicas
		want.AllowDirect = true
		want.AllowAtomicPublish = true
		want.Duplicates = dedupe
		if want.MaxAge > 0 {
			want.Duplicates = min(dedupe, want.MaxAge)
		}
		want.MaxConsumers, want.MaxMsgs, want.MaxBytes, want.MaxMsgSize = -1, -1, -1, -1
		if want.MaxMsgsPerSubject == 0 {
			want.MaxMsgsPerSubject = -1
		}
		if err := provisionStream(ctx, c.js, want); err != nil {
			return fmt.Errorf("provision stream %s: %w", want.Name, err)
		}
	}
	return nil
}

func provisionStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, want)
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return err
		}
		s, err = js.Stream(ctx, want.Name) // another process was faster
	}
	if err != nil {
		return err
	}
	have := s.CachedInfo().Config
	next, err := strengthen(have, want)
	if err != nil {
		return err
	}
	if sameStream(have, next) {
		return nil
	}
	_, err = js.UpdateStream(ctx, next)
	return err
}

// strengthen is want with everything kept that is stronger in have. It fails when
// only a weaker stream would satisfy want.
func strengthen(have, want jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	switch {
	case have.Storage != want.Storage:
		return have, errors.New("it is kept in memory: remove it by hand, then provision again")
	case have.Retention != want.Retention:
		return have, fmt.Errorf("its retention is %s: remove it by hand, then provision again", have.Retention)
	case have.Replicas > want.Replicas:
		return have, fmt.Errorf("it has %d replicas and %d are asked for, which would weaken it: set nats.replicas to %d, or lower them by hand", have.Replicas, want.Replicas, have.Replicas)
	case have.Sealed:
		return have, errors.New("it is sealed and takes no messages")
	}
	want.DenyDelete = want.DenyDelete || have.DenyDelete
	want.DenyPurge = want.DenyPurge || have.DenyPurge
	want.MaxAge = longer(have.MaxAge, want.MaxAge)
	want.Duplicates = max(have.Duplicates, want.Duplicates)
	want.Placement, want.Compression, want.Metadata = have.Placement, have.Compression, have.Metadata
	return want, nil
}

// longer of two ages, where 0 is for ever.
func longer(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// sameStream compares the settings that Provision cares for.
func sameStream(a, b jetstream.StreamConfig) bool {
	republish := func(c jetstream.StreamConfig) string {
		if c.RePublish == nil {
			return ""
		}
		return c.RePublish.Source + " " + c.RePublish.Destination
	}
	return len(a.Subjects) == 1 && a.Subjects[0] == b.Subjects[0] &&
		a.MaxAge == b.MaxAge && a.MaxMsgs == b.MaxMsgs && a.MaxBytes == b.MaxBytes && a.MaxMsgSize == b.MaxMsgSize &&
		a.MaxMsgsPerSubject == b.MaxMsgsPerSubject && a.MaxConsumers == b.MaxConsumers && a.Discard == b.Discard &&
		a.Replicas == b.Replicas && a.Duplicates == b.Duplicates && a.DenyDelete == b.DenyDelete && a.DenyPurge == b.DenyPurge &&
		a.AllowDirect == b.AllowDirect && a.AllowAtomicPublish == b.AllowAtomicPublish && a.AllowMsgTTL == b.AllowMsgTTL &&
		a.AllowMsgSchedules == b.AllowMsgSchedules && republish(a) == republish(b)
}
