package events

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Encode is the structured JSON form of e, canonical: one byte sequence per
// event. Members stand in the order specversion, id, source, type, subject, time,
// datacontenttype, dataschema, extensions by name, data; there is no white space,
// strings have their shortest form and data is always written as "data". It
// refuses what Decode would refuse, with the same errors.
func Encode(e Event) ([]byte, error) {
	b, err := encode(e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return b, nil
}

func encode(e Event) ([]byte, error) {
	for field, err := range e.FieldErrors {
		return nil, fmt.Errorf("%w: %s: %w", ErrEnvelope, field, err)
	}
	ec, ok := e.Context.(*event.EventContextV1)
	if !ok {
		return nil, fmt.Errorf("%w: specversion is not 1.0", ErrEnvelope)
	}
	if err := checkContext(ec); err != nil {
		return nil, err
	}
	if err := checkLanyard(ec); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 640+len(e.DataEncoded))
	b = append(b, `{"specversion":"1.0"`...)
	b = appendMember(b, "id", ec.ID)
	b = appendMember(b, "source", ec.Source.String())
	b = appendMember(b, "type", ec.Type)
	b = appendMember(b, "subject", *ec.Subject)
	b = append(b, `,"time":"`...)
	b = ec.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	if ec.DataContentType != nil {
		b = appendMember(b, "datacontenttype", *ec.DataContentType)
	}
	if ec.DataSchema != nil {
		b = appendMember(b, "dataschema", ec.DataSchema.String())
	}
	names := make([]string, 0, 8)
	names = slices.AppendSeq(names, maps.Keys(ec.Extensions))
	slices.Sort(names)
	for _, name := range names {
		switch v := ec.Extensions[name].(type) {
		case string:
			b = appendMember(b, name, v)
		case bool:
			b = strconv.AppendBool(appendName(b, name), v)
		case int32:
			b = strconv.AppendInt(appendName(b, name), int64(v), 10)
		default:
			s, err := types.Format(v)
			if err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrEnvelope, name, err)
			}
			b = appendMember(b, name, s)
		}
	}
	b = append(b, `,"data":`...)
	b, err := appendData(b, e.DataEncoded)
	if err != nil {
		return nil, err
	}
	b = append(b, '}')
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	return b, nil
}

func appendName(b []byte, name string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// appendMember writes a member whose value was checked to be printable ASCII.
func appendMember(b []byte, name, value string) []byte {
	b = append(appendName(b, name), '"')
	for i := 0; i < len(value); i++ {
		if value[i] == '"' || value[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, value[i])
	}
	return append(b, '"')
}

func appendData(b, data []byte) ([]byte, error) {
	start := len(b)
	b, err := jsontext.AppendFormat(b, data)
	if err != nil {
		return nil, fmt.Errorf("data: %w", syntaxError(err))
	}
	if b[start] != '{' {
		return nil, fmt.Errorf("%w: data is not a JSON object", ErrEnvelope)
	}
	return b, nil
}

// Decode reads one event from its structured JSON form, strictly: no duplicate
// or case-variant members, valid UTF-8, nothing after the object, specversion 1.0,
// every required attribute, a known type, at most MaxSize bytes. It does not
// check the data against its schema; see Validate. Every error wraps one of the
// errors of this package.
//
// Attribute values are printable ASCII, because the NATS binding would have to
// escape anything else and released SDKs do not. A null attribute counts as
// absent (CloudEvents JSON format 1.0.2, section 2.2). data_base64 is read when it
// holds JSON, since SDKs write it for byte slices. The event keeps its own copy of
// the data.
func Decode(b []byte) (Event, error) {
	e, err := decode(b)
	if err == nil {
		err = checkLanyard(e.Context.(*event.EventContextV1))
	}
	if err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	return e, nil
}

// decode reads an event that follows CloudEvents 1.0 and carries a known type, but
// may lack what Lanyard requires beyond that.
func decode(b []byte) (Event, error) {
	if len(b) > MaxSize {
		return Event{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	var env envelope
	if err := json.Unmarshal(b, &env); err != nil {
		return Event{}, syntaxError(err)
	}
	switch env.specversion {
	case event.CloudEventsVersionV1:
	case "":
		return Event{}, fmt.Errorf("%w: specversion is missing", ErrEnvelope)
	default:
		return Event{}, fmt.Errorf("%w: specversion is not 1.0", ErrEnvelope)
	}
	if err := checkContext(&env.EventContextV1); err != nil {
		return Event{}, err
	}
	return Event{Context: &env.EventContextV1, DataEncoded: env.data}, nil
}

// syntaxError names what a JSON reader found wrong. Errors that are named already
// pass through.
func syntaxError(err error) error {
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("%w: %w", ErrDuplicateMember, err)
	case Code(err) != "internal":
		return err
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// envelope is the structured form while it is read.
type envelope struct {
	event.EventContextV1
	specversion string
	data        []byte
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom. The reader itself refuses
// duplicate names and invalid UTF-8 at every depth.
func (v *envelope) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' {
		if _, err := d.ReadValue(); err != nil {
			return err
		}
		return fmt.Errorf("%w: not a JSON object", ErrEnvelope)
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	v.Extensions = make(map[string]any, 6)
	var firstErr error // a syntax error further on matters more
	for d.PeekKind() != '}' {
		raw, err := d.ReadValue()
		if err != nil {
			return err
		}
		name := memberName(raw)
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		if err := v.set(name, value); err != nil && firstErr == nil {
			firstErr = err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	if firstErr == nil && v.data == nil {
		firstErr = fmt.Errorf("%w: data is missing", ErrEnvelope)
	}
	return firstErr
}

// memberName is the known constant for a known name, so that it costs no copy.
func memberName(raw jsontext.Value) string {
	if len(raw) >= 2 {
		if name, ok := knownNames[string(raw[1:len(raw)-1])]; ok {
			return name
		}
	}
	name, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return "" // not a legal attribute name; the reader has checked the syntax
	}
	return string(name)
}

var knownNames = func() map[string]string {
	m := map[string]string{}
	for _, n := range []string{"specversion", "id", "source", "type", "subject", "time",
		"datacontenttype", "dataschema", "data", "data_base64", ExtTenant, ExtCorrelation,
		ExtCausation, ExtTraceparent, ExtPartitionKey} {
		m[n] = n
	}
	return m
}()

func (v *envelope) set(name string, raw jsontext.Value) error {
	switch name {
	case "data", "data_base64":
		return v.setData(name, raw)
	}
	if err := checkName(name); err != nil {
		return err
	}
	switch raw.Kind() {
	case 'n':
		return nil
	case '"':
		s, err := attributeText(name, raw)
		if err != nil {
			return err
		}
		return v.setText(name, s)
	}
	if _, core := knownNames[name]; core {
		return fmt.Errorf("%w: %s is not a string", ErrEnvelope, name)
	}
	switch raw.Kind() {
	case 't', 'f':
		v.Extensions[name] = raw.Kind() == 't'
	case '0':
		i, err := strconv.ParseInt(string(raw), 10, 32)
		if err != nil {
			return fmt.Errorf("%w: %s is not a 32-bit integer", ErrEnvelope, name)
		}
		v.Extensions[name] = int32(i)
	default:
		return fmt.Errorf("%w: %s is not a string, boolean or integer", ErrEnvelope, name)
	}
	return nil
}

// attributeText unquotes a JSON string. Most have nothing to unescape.
func attributeText(name string, raw jsontext.Value) (string, error) {
	if len(raw) > 2*maxAttribute {
		return "", fmt.Errorf("%w: %s is longer than %d characters", ErrEnvelope, name, maxAttribute)
	}
	for _, c := range raw {
		if c == '\\' {
			s, err := jsontext.AppendUnquote(nil, raw)
			if err != nil {
				return "", err
			}
			return string(s), nil
		}
	}
	return string(raw[1 : len(raw)-1]), nil
}

func (v *envelope) setText(name, s string) error {
	switch name {
	case "specversion":
		v.specversion = s
	case "id":
		v.ID = s
	case "source":
		u := types.ParseURIRef(s)
		if u == nil || u.String() != s {
			return fmt.Errorf("%w: source is not a URI reference in normal form", ErrEnvelope)
		}
		v.Source = *u
	case "type":
		v.Type = s
		if info, ok := byType[s]; ok {
			v.Type = info.Type
		}
	case "subject":
		v.Subject = pointer(s)
	case "time":
		t, ok := parseTime(s)
		if !ok {
			return fmt.Errorf("%w: time is not an RFC 3339 timestamp", ErrEnvelope)
		}
		v.Time = &types.Timestamp{Time: t}
	case "datacontenttype":
		v.DataContentType = pointer(s)
	case "dataschema":
		u := types.ParseURI(s)
		if u == nil || u.String() != s {
			return fmt.Errorf("%w: dataschema is not a URI in normal form", ErrEnvelope)
		}
		v.DataSchema = u
	default:
		v.Extensions[name] = s
	}
	return nil
}

// pointer keeps s off the heap for the attributes that need no pointer.
func pointer(s string) *string { return &s }

func (v *envelope) setData(name string, raw jsontext.Value) error {
	if v.data != nil {
		return fmt.Errorf("%w: both data and data_base64", ErrEnvelope)
	}
	if name == "data" {
		v.data = append([]byte{}, raw...)
		if raw.Kind() != '{' {
			return fmt.Errorf("%w: data is not a JSON object", ErrEnvelope)
		}
		return nil
	}
	v.data = []byte{}
	if raw.Kind() != '"' {
		return fmt.Errorf("%w: data_base64 is not a string", ErrEnvelope)
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return err
	}
	data := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(data, text)
	if err != nil {
		return fmt.Errorf("%w: data_base64 is not base64", ErrEnvelope)
	}
	v.data, err = appendData(nil, data[:n])
	return err
}
