package events

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	json "github.com/go-json-experiment/json"
)

// Event is a CloudEvent (specification 1.0) that carries one payload of the
// catalogue. The context attributes Lanyard adds are the extensions below.
type Event = event.Event

// Extension attributes of every Lanyard event.
const (
	ExtTenant       = "tenant"        // the tenant the fact belongs to; always equal to the subject's tenant token
	ExtCorrelation  = "correlationid" // one id from the first event through the whole cascade
	ExtCausation    = "causationid"   // id of the event that caused this one
	ExtTraceparent  = "traceparent"   // W3C trace context of the first hop
	ExtPartitionKey = "partitionkey"  // what order is kept by: the entity the event is about
)

// MaxSize is the largest encoded event, in bytes, that any part of Lanyard
// accepts (CloudEvents 1.0, "Size limits").
const MaxSize = 64 << 10

// ContentType is the media type of an encoded event (structured JSON mode, the
// only mode of the released CloudEvents NATS binding).
const ContentType = "application/cloudevents+json"

// Payload is the data of one event type of the catalogue.
type Payload interface {
	// EventType is the CloudEvents type, such as "dev.lanyard.identity.declared.v1".
	EventType() string
	// Entity is the id of what the fact is about (an identity, a revocation, an
	// owner, ...). It becomes the event's subject and its partition key.
	Entity() string
}

// Origin says where an event comes from. Source and Tenant are required.
type Origin struct {
	Source string    // URI reference of the producer, such as "/lanyard/issuance"
	Tenant string    // see ValidTenant
	Time   time.Time // when the fact happened (event time), required
	Cause  *Event    // the event that caused this one; nil for a first event
	// ID overrides the deterministic id. A product that already has an id for
	// the fact (an audit log's event id) passes it here.
	ID string
	// Discriminator tells apart several events of one type about one entity
	// that share a cause. Without a Cause it should hold something unique.
	Discriminator string
	// Traceparent is the W3C trace context to carry when there is no Cause.
	Traceparent string
}

// New makes the event that states p. The id derives from source, cause, type,
// entity and discriminator, so the same cause always yields the same event; see
// DeterministicID. Without a cause and without Origin.ID, the event time and the
// encoded payload take the cause's place.
func New(o Origin, p Payload) (Event, error) {
	data, err := json.Marshal(p, json.Deterministic(true))
	if err != nil {
		return Event{}, fmt.Errorf("encode payload %s: %w", p.EventType(), err)
	}
	e := event.New(event.CloudEventsVersionV1)
	e.SetSource(o.Source)
	e.SetType(p.EventType())
	e.SetSubject(p.Entity())
	e.SetTime(o.Time.UTC())
	e.SetDataSchema(SchemaID(p.EventType()))
	if err := e.SetData(event.ApplicationJSON, data); err != nil {
		return Event{}, fmt.Errorf("set data of %s: %w", p.EventType(), err)
	}
	e.SetExtension(ExtTenant, o.Tenant)
	e.SetExtension(ExtPartitionKey, p.Entity())
	id, correlation := o.ID, ""
	if o.Cause != nil {
		e.SetExtension(ExtCausation, o.Cause.ID())
		correlation = Extension(*o.Cause, ExtCorrelation)
		if tp := Extension(*o.Cause, ExtTraceparent); tp != "" {
			e.SetExtension(ExtTraceparent, tp)
		}
		if id == "" {
			id = DeterministicID(o.Source, o.Cause.Source()+"\x00"+o.Cause.ID(), p.EventType(), p.Entity(), o.Discriminator)
		}
	} else {
		if o.Traceparent != "" {
			e.SetExtension(ExtTraceparent, o.Traceparent)
		}
		if id == "" {
			id = DeterministicID(o.Source, o.Time.UTC().Format(time.RFC3339Nano)+"\x00"+string(data), p.EventType(), p.Entity(), o.Discriminator)
		}
	}
	if correlation == "" {
		correlation = id
	}
	e.SetID(id)
	e.SetExtension(ExtCorrelation, correlation)
	return e, nil
}

// DeterministicID is the first 128 bits of SHA-256 over the parts, length
// prefixed, in lower-case hex (32 characters).
func DeterministicID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Extension is the string value of an extension attribute, "" when absent.
func Extension(e Event, name string) string {
	if v, ok := e.Extensions()[name].(string); ok {
		return v
	}
	return ""
}

// Tenant is the tenant of e.
func Tenant(e Event) string { return Extension(e, ExtTenant) }

// As decodes the payload of e as P. It fails when e is of another type.
func As[P Payload](e Event) (P, error) {
	var p P
	if e.Type() != p.EventType() {
		return p, fmt.Errorf("read payload: event %s is %s, not %s", e.ID(), e.Type(), p.EventType())
	}
	if err := json.Unmarshal(e.Data(), &p); err != nil {
		return p, fmt.Errorf("read payload of %s %s: %w", e.Type(), e.ID(), err)
	}
	return p, nil
}
