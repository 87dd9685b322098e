package trace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
)

// early is how much before its issue the log is read from: producers' and the
// server's clocks differ, and the request came first. late is how long after its end
// the log is read on.
const (
	early = time.Minute
	late  = time.Hour
)

// walk reads what concerns the subject.
type walk struct {
	Tracer
	query  Query
	answer *Answer
	handle string           // what the subject's descendants have in their lineage; "": they have nothing in common
	under  map[string]*Step // by credential: the subject and what is below it
	hit    map[string]bool  // handles whose revocation concerns the subject
	ours   map[string]bool  // revocations that concern it
	names  map[string]events.Named
	// foreign are credentials below the subject that the caller may not read.
	foreign map[string]bool

	from, until time.Time // until: zero for now
	left        int       // records that may still be read
	unsure      bool      // whether there is such a thing is known only when something is found
	seen        bool
	correlation string // of an event
	eventID     string
	revoked     []events.RevocationAccepted
}

// part is one stream and subject, and what is taken from it: the text of a moment,
// empty when it does not concern the subject.
type part struct {
	stream, filter string
	until          time.Time // zero: to the end
	take           func(bus.Stored) string
}

func (w *walk) run(ctx context.Context) error {
	if !w.query.Since.IsZero() {
		w.from = w.query.Since
	}
	s := &w.answer.Subject
	w.answer.Since = w.from.UTC()
	if w.handle != "" {
		w.hit[w.handle] = true
	}
	if err := w.registration(ctx, s.Tenant, s.Identity); err != nil {
		return err
	}
	if err := w.parents(ctx, s.Step); err != nil {
		return err
	}
	parts := []part{
		{bus.StreamLog, "nhi.log.*.credential.*.*", w.until, w.credential},
		{bus.StreamLog, "nhi.log.*.delegation.created.*", w.until, w.delegation},
		{bus.StreamLog, "nhi.log.*.secret.*.*", time.Time{}, w.secret},
		{bus.StreamLog, "nhi.log.*.revocation.*.*", w.until, w.revocation},
		{bus.StreamLog, "nhi.log.*.task.closed.*", w.until, w.task},
		{bus.StreamIn, "nhi.in.*.activity.*", time.Time{}, w.activity},
		{bus.StreamAlert, "nhi.alert.>", time.Time{}, w.alert},
	}
	if w.correlation != "" {
		parts = []part{
			{bus.StreamIn, ">", time.Time{}, w.correlated},
			{bus.StreamLog, ">", time.Time{}, w.correlated},
			{bus.StreamAlert, ">", time.Time{}, w.correlated},
		}
	}
	if s.Identity != "" && s.Kind != KindEvent {
		parts = append(parts, part{bus.StreamLog, events.LogSubject(s.Tenant, "identity", "*", s.Identity), w.until, w.identity},
			part{bus.StreamLog, events.LogSubject(s.Tenant, "risk", "changed", s.Identity), w.until, w.identity})
	}
	for _, p := range parts {
		if err := w.read(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) read(ctx context.Context, p part) error {
	from, err := w.seek(ctx, p.stream, p.filter, w.from)
	if err != nil {
		return err
	}
	for st, err := range w.Log.Read(ctx, p.stream, p.filter, from) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			w.cut("the time ran out")
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", p.stream, err)
		case !p.until.IsZero() && st.Time.After(p.until):
			return nil
		case w.spent():
			return nil
		}
		if text := p.take(st); text != "" {
			w.add(st.Event, text)
		}
	}
	return nil
}

// spent counts a record, and reports whether no more may be read.
func (w *walk) spent() bool {
	if w.left > 0 {
		w.left--
		return false
	}
	w.cut(fmt.Sprintf("%d records were read", w.Budget))
	return true
}

func (w *walk) cut(why string) {
	w.answer.Truncated = true
	if w.answer.Cut == "" {
		w.answer.Cut = why + " and there are more; ask for a later part with --since"
	}
}

func (w *walk) add(e events.Event, text string) {
	w.seen = true
	if !w.May(events.Tenant(e)) {
		w.answer.Hidden++
		return
	}
	w.moment(Moment{Time: e.Time(), Type: e.Type(), Tenant: events.Tenant(e), Summary: text, Event: e.ID()})
}

func (w *walk) moment(m Moment) {
	if len(w.answer.Timeline) >= w.query.Limit {
		w.answer.Truncated = true
		if w.answer.Cut == "" {
			w.answer.Cut = fmt.Sprintf("the first %d lines of each kind of record are shown; ask for more with --limit or for a later part with --since", w.query.Limit)
		}
		return
	}
	w.answer.Timeline = append(w.answer.Timeline, m)
}

// name remembers names that a record which the caller may read tells.
func (w *walk) name(named []events.Named) {
	for _, n := range named {
		w.names[n.Handle] = n
	}
}

// take makes the lineage of the first credential under the subject the subject's, up
// to the subject; a revocation of any of it hits the subject.
func (w *walk) take(lin []string) {
	if len(w.answer.Lineage) > 0 {
		return
	}
	if i := slices.Index(lin, w.handle); i >= 0 {
		lin = lin[:i+1]
	}
	for _, h := range lin {
		w.answer.Lineage = append(w.answer.Lineage, events.Named{Handle: h})
		w.hit[h] = true
	}
}

// registration tells who answers for an identity, from the log.
func (w *walk) registration(ctx context.Context, tenant, identity string) error {
	s := &w.answer.Subject
	if identity == "" || tenant == "" {
		return nil
	}
	for st, err := range w.Log.Read(ctx, bus.StreamLog, events.LogSubject(tenant, "identity", "registered", identity), 1) {
		if err != nil {
			return fmt.Errorf("read registration: %w", err)
		}
		if w.spent() {
			break
		}
		p, err := events.As[events.IdentityRegistered](st.Event)
		if err != nil {
			continue
		}
		if s.Credential == "" { // a credential's own record tells how it was when it was issued
			s.Owner, s.Feature, s.Purpose = p.Owner, p.Feature, p.Purpose
		}
		if s.Kind == string(lineage.KindIdentity) && len(w.answer.Lineage) == 0 {
			var lin []string
			for _, n := range []events.Named{{Kind: "tenant", Tenant: tenant, ID: tenant}, {Kind: "owner", Tenant: tenant, ID: p.Owner},
				{Kind: "feature", Tenant: tenant, ID: p.Feature}, {Kind: "identity", Tenant: tenant, ID: p.Identity}} {
				n.Handle = w.Handle(lineage.Kind(n.Kind), n.Tenant, n.ID).String()
				w.name([]events.Named{n})
				lin = append(lin, n.Handle)
			}
			w.take(lin)
		}
	}
	return nil
}

// finish names the lineage, tells which revocation ended which credential, and finds
// out that there is no such thing.
func (w *walk) finish(ctx context.Context) error {
	if w.unsure && !w.seen {
		return ErrUnknown
	}
	var handles []string
	for _, n := range w.answer.Lineage {
		handles = append(handles, n.Handle)
	}
	if found, err := w.Graph.Names(ctx, handles...); err == nil { // an index: without it there are fewer names
		for h, n := range found {
			if _, known := w.names[h]; !known && w.May(n.Tenant) {
				w.names[h] = n
			}
		}
	}
	for i, n := range w.answer.Lineage {
		if known, ok := w.names[n.Handle]; ok && (known.Tenant == "" || w.May(known.Tenant)) {
			w.answer.Lineage[i] = known
		}
	}
	for i := range w.answer.Descendants {
		d := &w.answer.Descendants[i]
		if s := w.under[d.Credential]; s != nil && s != d {
			*d = *s
		}
		w.ended(d)
	}
	if w.answer.Subject.Credential != "" {
		w.ended(&w.answer.Subject.Step)
	}
	for i := range w.answer.Chain {
		w.ended(&w.answer.Chain[i])
	}
	return nil
}

// ended says which revocation ended a credential before its time.
func (w *walk) ended(s *Step) {
	for _, r := range w.revoked {
		if s.Revocation == "" && slices.Contains(s.lineage, r.Handle) && (s.ExpiresAt.IsZero() || r.AcceptedAt.Before(s.ExpiresAt)) {
			s.Revocation = r.Revocation
		}
	}
}

// below notes a credential under the subject.
func (w *walk) below(rec graph.Record) {
	jti := rec.CredentialIssued.Credential
	for _, h := range rec.Lineage[slices.Index(rec.Lineage, w.handle)+1:] {
		if len(w.hit) < 32*Limit {
			w.hit[h] = true
		}
	}
	w.take(rec.Lineage)
	switch {
	case !w.May(rec.Tenant):
		w.answer.HiddenDescendants++
		if len(w.foreign) < Limit {
			w.foreign[jti] = true
		}
	case len(w.answer.Descendants) >= w.query.Limit:
		w.answer.Truncated = true
		if w.answer.Cut == "" {
			w.answer.Cut = fmt.Sprintf("the first %d descendants are shown; ask for more with --limit or for a later part with --since", w.query.Limit)
		}
	default:
		w.name(rec.Names)
		s := step(rec)
		w.under[jti] = &s
		w.answer.Descendants = append(w.answer.Descendants, Step{Credential: jti})
	}
}
