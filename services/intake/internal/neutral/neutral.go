// Package neutral is what the readers of audit logs have in common: lenient access to
// a record's members, event times as logs write them, texts cut to what the neutral
// event admits, and arguments reduced to destinations and keyed hashes. Only intake
// imports it.
//
// Everything in it is a pure function of its arguments. A member that is missing, or of
// another kind than expected, reads as empty: absence is not novelty, and a source that
// grows a member must not stop being read.
package neutral

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// MaxRecord is the largest single record, in bytes. CloudTrail's own limit is 256 KiB.
const MaxRecord = 1 << 20

// Why a record is no neutral event, beside the errors of package events.
var (
	ErrTime      = errors.New("the event time cannot be right")
	ErrNotStored = errors.New("the record only names an object that holds records")
	ErrSkip      = errors.New("not an act of an identity")
)

// Record is one use of a credential as a source tells it.
type Record struct {
	ID     string    // the source's own id of the event
	Time   time.Time // event time
	Source string    // URI reference, such as "aws:cloudtrail:111122223333"
	Form   Form
	events.Activity
}

// Form is which of the activity events a record becomes.
type Form int

// The forms of a record.
const (
	APICall  Form = iota // an identity called an API
	Exchange             // an identity got one credential for another
	ToolCall             // an agent called a tool
)

// Event is the neutral event, for the tenant on whose behalf the record arrived at
// time seen. Its texts are cut to what the schema admits. Every error wraps one of
// the errors of package events.
func (r Record) Event(tenant string, seen time.Time) (events.Event, error) {
	observed := seen.UTC()
	a := r.Activity
	trim(&a)
	a.ObservedTime = &observed
	var p events.Payload
	switch r.Form {
	case Exchange:
		p = events.TokenExchanged{Activity: a}
	case ToolCall:
		p = events.ToolCalled{Activity: a}
	default:
		p = events.APICalled{Activity: a}
	}
	e, err := events.New(events.Origin{Source: r.Source, Tenant: tenant, Time: r.Time, ID: r.ID}, p)
	if err != nil {
		return events.Event{}, fmt.Errorf("%w: %w", events.ErrSchema, err)
	}
	return e, events.Validate(e)
}

// Context is what a reader of records knows besides the record.
type Context struct {
	Tenant string // on whose behalf the record arrived
	// Instance names the cluster, account or installation it came from, when the sender
	// says so and records do not. May be empty.
	Instance string
	Hash     Hasher
	// WholeTraces says that every span of a trace comes in one request.
	WholeTraces bool
}

// Skip says that a record is in order but states no act of an identity, and why.
func Skip(why string) error { return fmt.Errorf("%w: %s", ErrSkip, why) }

// Unidentified stands for the identity of an act whose record names nobody. Such an
// act is no less worth a look.
func Unidentified(where string) string { return "unidentified@" + where }

// Source is the URI reference of a log, such as "gcp:audit:acme-prod".
func Source(log, instance string) string {
	return log + ":" + url.PathEscape(Clip(cmp.Or(instance, "-"), 128))
}
