package trace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
)

// find says what the query is about: it fills the answer's subject, and what the walk
// goes by.
func (w *walk) find(ctx context.Context) error {
	q := w.query
	switch {
	case q.ID == "" || len(q.ID) > 512:
		return fmt.Errorf("%w: an id has 1 to 512 bytes", ErrBadQuery)
	case q.Tenant != "" && !w.May(q.Tenant):
		return ErrUnknown
	}
	switch kind := lineage.Kind(q.Kind); {
	case q.Kind == "":
		return w.findAny(ctx)
	case q.Kind == KindRevocation, q.Kind == KindSecret, kind == lineage.KindIdentity:
		if ok, err := w.byEntity(ctx, q.Kind); ok || err != nil {
			return err
		}
		return ErrUnknown
	case q.Kind == KindEvent, kind == lineage.KindCredential:
		return w.scan(ctx)
	case slices.Contains(lineage.Kinds, kind):
		return w.byName(kind)
	}
	return fmt.Errorf("%w: unknown kind %q: want one of %v, revocation, secret or event", ErrBadQuery, q.Kind, lineage.Kinds)
}

// byName takes a thing at its name; whether there is anything under it is seen later.
func (w *walk) byName(kind lineage.Kind) error {
	tenant, id := cmp.Or(w.query.Tenant, w.Tenant), w.query.ID
	switch kind {
	case lineage.KindDomain, lineage.KindKey:
		tenant = ""
	case lineage.KindTenant:
		tenant = id
	}
	if tenant != "" && !w.May(tenant) {
		return ErrUnknown
	}
	w.about(string(kind), tenant, id, w.Handle(kind, tenant, id).String())
	w.unsure = true
	return nil
}

func (w *walk) about(kind, tenant, id, handle string) {
	w.answer.Subject = Subject{Kind: kind, ID: id, Handle: handle, Step: Step{Tenant: tenant}}
	w.handle = handle
	w.from = w.Now().Add(-recent)
	switch lineage.Kind(kind) {
	case lineage.KindIdentity:
		w.answer.Subject.Identity = id
	case lineage.KindTask:
		w.answer.Subject.Task = id
	case lineage.KindOwner:
		w.answer.Subject.Owner = id
	case lineage.KindFeature:
		w.answer.Subject.Feature = id
	}
}

// findAny looks for whatever is called so: what the index knows first, then what has
// subjects of its own on the log, then by reading it.
func (w *walk) findAny(ctx context.Context) error {
	if rec, err := w.Graph.Credential(ctx, w.query.ID); err == nil && w.May(rec.Tenant) {
		w.credentialFound(rec)
		return nil
	}
	for _, kind := range []string{string(lineage.KindIdentity), KindRevocation, KindSecret} {
		if ok, err := w.byEntity(ctx, kind); ok || err != nil {
			return err
		}
	}
	if _, err := lineage.Parse(w.query.ID); err == nil {
		names, err := w.Graph.Names(ctx, w.query.ID)
		if n, ok := names[w.query.ID]; err == nil && ok && w.May(n.Tenant) {
			w.about(n.Kind, n.Tenant, n.ID, n.Handle)
			return nil
		}
	}
	return w.scan(ctx)
}

// most is how many events about one entity are looked at to find its tenants.
const most = 1000

// byEntity finds what has subjects of its own: identities, revocations and secrets.
func (w *walk) byEntity(ctx context.Context, kind string) (bool, error) {
	var found []bus.Stored
	tenant := cmp.Or(w.query.Tenant, "*")
	for st, err := range w.Log.Read(ctx, bus.StreamLog, events.LogSubject(tenant, kind, "*", w.query.ID), 1) {
		if err != nil {
			return false, fmt.Errorf("look for %s: %w", kind, err)
		}
		w.left--
		of := events.Tenant(st.Event)
		if w.May(of) && !slices.ContainsFunc(found, func(s bus.Stored) bool { return events.Tenant(s.Event) == of }) {
			found = append(found, st)
		}
		if w.left < w.Budget-most {
			break
		}
	}
	if len(found) == 0 {
		return false, nil
	}
	// A name that several tenants use is that of the caller's, if it is among them.
	pick := found[0]
	if i := slices.IndexFunc(found, func(s bus.Stored) bool { return events.Tenant(s.Event) == w.Tenant }); i >= 0 {
		pick = found[i]
	} else if len(found) > 1 {
		var in []string
		for _, f := range found {
			in = append(in, kind+":"+events.Tenant(f.Event)+"/"+w.query.ID)
		}
		return false, fmt.Errorf("%w: the name is used in several tenants; say which: %s", ErrBadQuery, strings.Join(in, ", "))
	}
	w.entityFound(kind, pick)
	return true, nil
}

func (w *walk) entityFound(kind string, st bus.Stored) {
	tenant := events.Tenant(st.Event)
	switch kind {
	case KindRevocation:
		w.about(kind, tenant, w.query.ID, "")
		w.ours[w.query.ID] = true
		w.from = st.Event.Time().Add(-w.Life)
		if p, err := events.As[events.RevocationAccepted](st.Event); err == nil {
			w.handle = p.Handle
			w.from = p.AcceptedAt.Add(-w.Life)
		}
		w.answer.Subject.Handle = w.handle
	case KindSecret:
		s := secretOf(st.Event)
		h := w.Handle(lineage.KindCredential, tenant, w.query.ID).String()
		w.about(kind, tenant, w.query.ID, h)
		w.answer.Subject.Identity, w.answer.Subject.Owner, w.answer.Subject.lineage = s.Identity, s.Owner, s.Lineage
		w.from = st.Event.Time().Add(-early)
		w.name(s.Names)
		w.take(s.Lineage)
	default:
		w.about(kind, tenant, w.query.ID, w.Handle(lineage.KindIdentity, tenant, w.query.ID).String())
	}
}

// secret is what the events of a managed secret say of it.
type secret struct {
	Secret     string         `json:"secret"`
	Identity   string         `json:"identity"`
	Owner      string         `json:"owner"`
	Downstream string         `json:"downstream"`
	Account    string         `json:"account"`
	Reason     string         `json:"reason"`
	Lineage    []string       `json:"lineage"`
	Names      []events.Named `json:"names"`
}

func secretOf(e events.Event) secret {
	var s secret
	_ = json.Unmarshal(e.Data(), &s) // what is not there is not shown
	return s
}

// credentialFound makes a credential the subject.
func (w *walk) credentialFound(rec graph.Record) {
	jti := rec.CredentialIssued.Credential
	w.about(string(lineage.KindCredential), rec.Tenant, jti, w.Handle(lineage.KindCredential, rec.Tenant, jti).String())
	s := &w.answer.Subject
	s.Step, s.TokenSHA256, s.KeyID = step(rec), rec.TokenSHA256, rec.KeyID
	w.from, w.until = rec.IssuedAt.Add(-early), rec.ExpiresAt.Add(late)
	w.under[jti] = &s.Step
	w.name(rec.Names)
	w.take(rec.Lineage)
}

// scan reads the log, the alerts and what products published for a thing of the
// query's name.
func (w *walk) scan(ctx context.Context) error {
	filter := ">"
	if w.query.Kind == string(lineage.KindCredential) {
		if rec, err := w.Graph.Credential(ctx, w.query.ID); err == nil && w.May(rec.Tenant) {
			w.credentialFound(rec)
			return nil
		}
		filter = events.LogSubject(cmp.Or(w.query.Tenant, "*"), "credential", "issued", "*")
	}
	for _, stream := range []string{bus.StreamLog, bus.StreamAlert, bus.StreamIn} {
		if filter != ">" && stream != bus.StreamLog {
			break
		}
		from, err := w.searchFrom(ctx, stream, filter)
		if err != nil {
			return err
		}
		for st, err := range w.Log.Read(ctx, stream, filter, from) {
			if err != nil {
				return fmt.Errorf("search %s: %w", stream, err)
			}
			if w.left--; w.left <= 0 {
				return fmt.Errorf("%w in the first %d records that were searched; say its kind, as in credential:<id>, or since when", ErrUnknown, w.Budget)
			}
			if tenant := events.Tenant(st.Event); w.May(tenant) && w.called(tenant, st.Event) {
				return nil
			}
		}
	}
	return ErrUnknown
}

func (w *walk) searchFrom(ctx context.Context, stream, filter string) (uint64, error) {
	last, err := w.Log.LastSequence(ctx, stream, filter)
	if err != nil {
		return 0, fmt.Errorf("find end of %s: %w", stream, err)
	}
	switch {
	case !w.query.Since.IsZero():
		return w.seek(ctx, stream, filter, w.query.Since)
	case last <= uint64(w.left):
		return 1, nil
	}
	return w.seek(ctx, stream, filter, w.Now().Add(-lookBack))
}

// called reports whether e states a thing of the query's name, and makes it the subject.
func (w *walk) called(tenant string, e events.Event) bool {
	id, kind := w.query.ID, w.query.Kind
	if kind != string(lineage.KindCredential) && e.ID() == id {
		return w.eventFound(tenant, e)
	}
	if kind == KindEvent {
		p, err := events.As[events.AnomalyDetected](e)
		return err == nil && p.Alert == id && w.eventFound(tenant, e)
	}
	switch e.Type() {
	case events.TypeCredentialIssued:
		p, err := events.As[events.CredentialIssued](e)
		switch {
		case err != nil:
			return false
		case p.Credential == id || p.TokenSHA256 == id:
			w.credentialFound(graph.Record{Tenant: tenant, CredentialIssued: p})
			return true
		case kind != "":
			return false
		case p.Task == id:
			return w.taskFound(p, id)
		}
		for _, n := range p.Names {
			if n.Handle == id || kind == "" && n.ID == id && w.May(n.Tenant) {
				w.about(n.Kind, n.Tenant, n.ID, n.Handle)
				return true
			}
		}
		if slices.Contains(p.Lineage, id) { // of another tenant: it has no name here
			w.about("handle", "", id, id)
			return true
		}
	case events.TypeDelegationCreated:
		if p, err := events.As[events.DelegationCreated](e); err == nil && (p.Delegation == id || p.Handle == id) {
			w.about(string(lineage.KindDelegation), tenant, p.Delegation, p.Handle)
			w.from = e.Time().Add(-early)
			return true
		}
	case events.TypeAnomalyDetected:
		if p, err := events.As[events.AnomalyDetected](e); err == nil && p.Alert == id {
			return w.eventFound(tenant, e)
		}
	case events.TypeTaskClosed:
		if p, err := events.As[events.TaskClosed](e); err == nil && p.Task == id {
			w.about(string(lineage.KindTask), tenant, id, p.Handle)
			return true
		}
	}
	return false
}

// taskFound makes a task the subject, when the credential may name it: the task of a
// credential from another tenant is that tenant's.
func (w *walk) taskFound(p events.CredentialIssued, id string) bool {
	for _, n := range p.Names {
		if n.Kind == string(lineage.KindTask) && n.ID == id && w.May(n.Tenant) {
			w.about(n.Kind, n.Tenant, n.ID, n.Handle)
			w.from = p.IssuedAt.Add(-early)
			return true
		}
	}
	return false
}

// eventFound follows an event: everything that it is part of, and whom it is about.
func (w *walk) eventFound(tenant string, e events.Event) bool {
	w.about(KindEvent, tenant, w.query.ID, "")
	w.correlation = cmp.Or(events.Extension(e, events.ExtCorrelation), e.ID())
	w.eventID = e.ID()
	w.from = e.Time().Add(-lookBackEvent)
	s := &w.answer.Subject
	var about struct {
		Identity   string `json:"identity"`
		Credential string `json:"credential"`
		Task       string `json:"task"`
	}
	if err := json.Unmarshal(e.Data(), &about); err == nil {
		s.Identity, s.Credential, s.Task = about.Identity, about.Credential, about.Task
	}
	if p, err := events.As[events.AnomalyDetected](e); err == nil {
		s.Owner, s.Feature, s.Purpose = p.Owner, p.Feature, p.Purpose
	}
	return true
}

// lookBackEvent is how long before an event what caused it is looked for.
const lookBackEvent = time.Hour

// parents finds the credentials that the subject was exchanged from, the first one
// first: each has its own handle in the subject's lineage.
func (w *walk) parents(ctx context.Context, s Step) error {
	if s.Parent == "" {
		return nil
	}
	chain := []Step{}
	for parent := s.Parent; parent != ""; {
		rec, err := w.Graph.Credential(ctx, parent)
		if errors.Is(err, graph.ErrUnknown) || err != nil {
			return w.parentsFromLog(ctx, s)
		}
		chain = append([]Step{w.shown(rec)}, chain...)
		parent = rec.Parent
	}
	w.answer.Chain = chain
	return nil
}

// parentsFromLog reads them. A credential ends no later than what it came from, and
// none lives longer than Life, so the whole chain was issued within Life.
func (w *walk) parentsFromLog(ctx context.Context, s Step) error {
	filter := events.LogSubject("*", "credential", "issued", "*")
	from, err := w.seek(ctx, bus.StreamLog, filter, s.IssuedAt.Add(-w.Life-early))
	if err != nil {
		return err
	}
	for st, err := range w.Log.Read(ctx, bus.StreamLog, filter, from) {
		if err != nil {
			return fmt.Errorf("look for the chain: %w", err)
		}
		p, err := events.As[events.CredentialIssued](st.Event)
		if err != nil {
			continue
		}
		if p.Credential == s.Credential || w.spent() {
			break
		}
		tenant := events.Tenant(st.Event)
		if slices.Contains(s.lineage, w.Handle(lineage.KindCredential, tenant, p.Credential).String()) {
			w.answer.Chain = append(w.answer.Chain, w.shown(graph.Record{Tenant: tenant, CredentialIssued: p}))
		}
	}
	return nil
}

// shown is what the caller may see of a credential.
func (w *walk) shown(rec graph.Record) Step {
	if !w.May(rec.Tenant) {
		return Step{Hidden: true}
	}
	w.name(rec.Names)
	return step(rec)
}
