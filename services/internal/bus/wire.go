package bus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of messages.
const (
	headerContentType = "Content-Type"
	headerDead        = "Lanyard-Dead" // JSON of a Dead without its data
)

// item is one message to be stored.
type item struct {
	stream, subject, id string
	data                []byte
	header              nats.Header // beside the message id; read only
}

// contentType is a read-only table: the header of every event.
var contentType = nats.Header{headerContentType: {events.ContentType}}

// newItem encodes an event and finds where it belongs.
func newItem(e events.Event) (item, error) {
	subject, err := events.Subject(e)
	if err != nil {
		return item{}, err
	}
	data, err := events.Encode(e)
	if err != nil {
		return item{}, err
	}
	if len(data) > events.MaxSize {
		return item{}, fmt.Errorf("encode event %s: %w", e.ID(), events.ErrTooLarge)
	}
	stream, _ := StreamOf(e.Type())
	return item{stream: stream, subject: subject, id: messageID(e), data: data, header: contentType}, nil
}

// message makes a fresh NATS message; a publish may add headers to it.
func (it item) message() *nats.Msg {
	h := make(nats.Header, len(it.header)+4)
	for k, v := range it.header {
		h[k] = v
	}
	h[jetstream.MsgIDHeader] = []string{it.id}
	return &nats.Msg{Subject: it.subject, Header: h, Data: it.data}
}

// messageID is the Nats-Msg-Id of an event. It names tenant, source and id, since an
// event's id is unique within its source only.
func messageID(e events.Event) string {
	s := extension(e, events.ExtTenant) + "|" + e.Source() + "|" + e.ID()
	if len(s) <= 200 {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// extension is events.Extension without the copy of all extensions that the SDK
// makes for it.
func extension(e events.Event, name string) string {
	ec, ok := e.Context.(*event.EventContextV1)
	if !ok {
		return events.Extension(e, name)
	}
	s, _ := ec.Extensions[name].(string)
	return s
}

// StreamOf is the stream that events of a type are stored in.
func StreamOf(eventType string) (string, bool) {
	info, ok := events.Lookup(eventType)
	if !ok {
		return "", false
	}
	s, ok := channelStream[info.Channel]
	return s, ok
}

// channelStream is a read-only table.
var channelStream = map[events.Channel]string{
	events.ChannelIn: StreamIn, events.ChannelLog: StreamLog, events.ChannelAlert: StreamAlert,
	events.ChannelReceipt: StreamReceipt, events.ChannelGuard: StreamGuard, events.ChannelTimer: StreamTimer,
}

// typeFilter matches every message of an event type, in every tenant.
func typeFilter(info events.TypeInfo) string {
	switch info.Channel {
	case events.ChannelIn:
		return "nhi.in.*." + info.Noun + "." + info.Verb
	case events.ChannelLog:
		return events.LogSubject("*", info.Noun, info.Verb, "*")
	case events.ChannelAlert:
		return "nhi.alert.*.*.*"
	case events.ChannelReceipt:
		return "nhi.receipt.*.*.*"
	case events.ChannelGuard:
		return "nhi.guard.*.*"
	case events.ChannelTimer:
		return "nhi.timer.due.*.*"
	}
	return ""
}

// open reads one message strictly: its headers, its envelope, and whether both say
// the same as its subject. Messages of NHI_IN are also checked against their schema,
// since they come from outside.
func open(stream, subject string, h nats.Header, data []byte) (events.Event, error) {
	for k, v := range h {
		if len(v) > 1 {
			return events.Event{}, fmt.Errorf("read headers: %w: %s appears %d times", events.ErrHeaders, k, len(v))
		}
		if len(k) > 3 && strings.EqualFold(k[:3], "ce-") {
			return events.Event{}, fmt.Errorf("read headers: %w: %s beside a structured event", events.ErrHeaders, k)
		}
		if strings.EqualFold(k, headerContentType) && !isEventType(v[0]) {
			return events.Event{}, fmt.Errorf("read headers: %w: %q", events.ErrContentType, v[0])
		}
	}
	if len(data) > events.MaxSize {
		return events.Event{}, fmt.Errorf("read event: %w: %d bytes", events.ErrTooLarge, len(data))
	}
	e, err := events.Decode(data)
	if err != nil {
		return events.Event{}, err
	}
	if got, want := extension(e, events.ExtTenant), events.SubjectTenant(subject); got != want {
		return events.Event{}, fmt.Errorf("read event %s: %w: event says %q, subject says %q", e.ID(), events.ErrWrongTenant, got, want)
	}
	if stream == StreamIn {
		if err := events.Validate(e); err != nil {
			return events.Event{}, err
		}
	}
	if onLog(e, subject) {
		return e, nil
	}
	if want, err := events.Subject(e); err != nil {
		return events.Event{}, err
	} else if want != subject {
		return events.Event{}, fmt.Errorf("read event %s: %w: it belongs on %s, not on %s", e.ID(), events.ErrEnvelope, want, subject)
	}
	return e, nil
}

// onLog reports whether e is a fact that belongs on subject, as far as that can be
// said without making its subject: false says nothing. The tenant is checked already.
func onLog(e events.Event, subject string) bool {
	info, ok := events.Lookup(e.Type())
	if !ok || info.Channel != events.ChannelLog {
		return false
	}
	rest, ok := strings.CutPrefix(subject, "nhi.log.")
	if !ok {
		return false
	}
	_, rest, _ = strings.Cut(rest, ".") // tenant
	noun, rest, _ := strings.Cut(rest, ".")
	verb, entity, _ := strings.Cut(rest, ".")
	// A token with an escape is left to Subject; one without is the entity itself.
	return noun == info.Noun && verb == info.Verb && entity == e.Subject() && entity != "" && !strings.ContainsAny(entity, "=.*> ")
}

func isEventType(mediaType string) bool {
	base, _, _ := strings.Cut(mediaType, ";")
	return strings.EqualFold(strings.TrimSpace(base), events.ContentType)
}

// matches reports whether a subject matches a filter with wildcards.
func matches(filter, subject string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, ".")
		if f == ">" {
			return subject != ""
		}
		s, srest, smore := strings.Cut(subject, ".")
		if f != "*" && f != s {
			return false
		}
		if fmore != smore {
			return false
		}
		if !fmore {
			return true
		}
		filter, subject = frest, srest
	}
}
