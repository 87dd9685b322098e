package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
)

// batchType is the media type of a batch (CloudEvents JSON format 1.0.2, section 4).
const batchType = "application/cloudevents-batch+json"

// prefix begins the headers that carry attributes, in Go's canonical spelling.
const prefix = "Ce-"

// Request is one request's events as texts in structured JSON form, and the
// attributes that its headers repeat.
type Request struct {
	Batch bool
	Items [][]byte
	attrs map[string]string // ce-* headers of a structured request
}

// Parse finds the events of a request by its headers. At most limit events may be
// in a batch. What is wrong inside one event is left to the decoder, but a header
// that stands twice, or ce-* headers beside a batch, damn the whole request.
func Parse(h http.Header, body []byte, limit int) (Request, error) {
	attrs, err := attributes(h)
	if err != nil {
		return Request{}, fmt.Errorf("read headers: %w", err)
	}
	contentType := h.Get("Content-Type")
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return Request{}, fmt.Errorf("read headers: %w: Content-Type %.64q", events.ErrContentType, contentType)
	}
	structured := mediaType == events.ContentType || mediaType == batchType
	if cs := params["charset"]; structured && cs != "" && !strings.EqualFold(cs, "utf-8") {
		return Request{}, fmt.Errorf("read headers: %w: charset %.64q is not utf-8", events.ErrContentType, cs)
	}
	switch {
	case mediaType == batchType:
		if len(attrs) > 0 {
			return Request{}, fmt.Errorf("read headers: %w: ce-* headers beside a batch", events.ErrHeaders)
		}
		items, err := split(body, limit)
		if err != nil {
			return Request{}, fmt.Errorf("read batch: %w", err)
		}
		return Request{Batch: true, Items: items}, nil
	case structured:
		return Request{Items: [][]byte{body}, attrs: attrs}, nil
	case strings.HasPrefix(mediaType, "application/cloudevents"):
		return Request{}, fmt.Errorf("read headers: %w: of the event formats only JSON is known, not %.64q", events.ErrContentType, mediaType)
	case len(attrs) == 0:
		return Request{}, fmt.Errorf("read headers: %w: want %s, %s, or ce-* headers with application/json", events.ErrContentType, events.ContentType, batchType)
	}
	text, err := structure(attrs, contentType, body)
	if err != nil {
		return Request{}, fmt.Errorf("read binary event: %w", err)
	}
	return Request{Items: [][]byte{text}}, nil
}

// attributes reads the ce-* headers by attribute name.
func attributes(h http.Header) (map[string]string, error) {
	if n := len(h.Values("Content-Type")); n > 1 {
		return nil, fmt.Errorf("%w: Content-Type stands %d times", events.ErrHeaders, n)
	}
	attrs := map[string]string{}
	for key, values := range h {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		name = strings.ToLower(name)
		if len(values) != 1 {
			return nil, fmt.Errorf("%w: ce-%.64s stands %d times", events.ErrHeaders, name, len(values))
		}
		value, err := unescape(values[0])
		if err != nil {
			return nil, fmt.Errorf("%w: ce-%.64s: %w", events.ErrEnvelope, name, err)
		}
		attrs[name] = value
	}
	return attrs, nil
}

var errEscape = errors.New("broken escape in the header's value")

// unescape undoes double quotes and then percent encoding (HTTP binding 1.0.2,
// section 3.1.3.2).
func unescape(s string) (string, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		var b strings.Builder
		in := s[1 : len(s)-1]
		for i := 0; i < len(in); i++ {
			if in[i] == '\\' {
				if i++; i == len(in) {
					return "", errEscape
				}
			}
			b.WriteByte(in[i])
		}
		s = b.String()
	}
	if !strings.Contains(s, "%") {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errEscape
		}
		hi, lo := nibble(s[i+1]), nibble(s[i+2])
		if hi < 0 || lo < 0 {
			return "", errEscape
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), nil
}

func nibble(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// structure writes a binary event in structured form. The body must be one JSON
// value, so that it can add no members.
func structure(attrs map[string]string, contentType string, body []byte) ([]byte, error) {
	if _, ok := attrs["datacontenttype"]; ok {
		return nil, fmt.Errorf("%w: ce-datacontenttype beside Content-Type", events.ErrHeaders)
	}
	for _, name := range []string{"data", "data_base64"} {
		if _, ok := attrs[name]; ok {
			return nil, fmt.Errorf("%w: ce-%s is no attribute", events.ErrHeaders, name)
		}
	}
	if len(body) > events.MaxSize {
		return nil, fmt.Errorf("%w: %d bytes", events.ErrTooLarge, len(body))
	}
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name)
	}
	slices.Sort(names)
	b := []byte(`{"datacontenttype":`)
	b, err := jsontext.AppendQuote(b, contentType)
	if err != nil {
		return nil, fmt.Errorf("%w: Content-Type: %w", events.ErrMalformed, err)
	}
	for _, name := range names {
		for _, text := range []struct{ before, s string }{{",", name}, {":", attrs[name]}} {
			if b, err = jsontext.AppendQuote(append(b, text.before...), text.s); err != nil {
				return nil, fmt.Errorf("%w: ce-%.64s: %w", events.ErrMalformed, name, err)
			}
		}
	}
	b = append(b, `,"data":`...)
	if b, err = jsontext.AppendFormat(b, body); err != nil {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return nil, fmt.Errorf("%w: %w", events.ErrDuplicateMember, err)
		}
		return nil, fmt.Errorf("%w: %w", events.ErrMalformed, err)
	}
	return append(b, '}'), nil
}

// split finds the events of a batch. A doubled member or broken text inside one
// event is that event's trouble; broken JSON is everybody's.
func split(body []byte, limit int) ([][]byte, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if k := d.PeekKind(); k != '[' && k != jsontext.KindInvalid {
		return nil, fmt.Errorf("%w: a batch is an array", events.ErrMalformed)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrMalformed, err)
	}
	items := [][]byte{}
	for d.PeekKind() != ']' {
		v, err := d.ReadValue()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", events.ErrMalformed, err)
		}
		if len(items) == limit {
			return nil, fmt.Errorf("%w: at most %d", ErrTooMany, limit)
		}
		items = append(items, bytes.Clone(v))
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrMalformed, err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the batch", events.ErrMalformed)
	}
	return items, nil
}

// Agree demands that the ce-* headers of a structured request say what the event
// says. A header without its attribute contradicts it too: another reader might
// believe the header.
func (q Request) Agree(e events.Event) error {
	for name, value := range q.attrs {
		var got string
		switch name {
		case "specversion":
			got = e.SpecVersion()
		case "id":
			got = e.ID()
		case "source":
			got = e.Source()
		case "type":
			got = e.Type()
		case "subject":
			got = e.Subject()
		case "dataschema":
			got = e.DataSchema()
		case "datacontenttype":
			got = e.DataContentType()
		case "time":
			if t, err := time.Parse(time.RFC3339Nano, value); err == nil && t.Equal(e.Time()) {
				got = value
			}
		default:
			if v, ok := e.Extensions()[name]; ok {
				got = fmt.Sprint(v)
			}
		}
		if got != value {
			return fmt.Errorf("read headers: %w: ce-%.64s says something else than the event", events.ErrHeaders, name)
		}
	}
	return nil
}
