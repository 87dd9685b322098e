// Package records finds the records in what audit logs are delivered as: files,
// batches of webhooks and newline-delimited JSON, with the wrappers that delivery
// services put around them. It does not look into records. Only intake imports it.
package records

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
)

// ErrTooMany means that a body holds more records than one request may carry.
var ErrTooMany = errors.New("too many records")

// Shape says where records stand in the objects of a body.
type Shape struct {
	// Lists are members that hold an array of records; an object with none of them is a
	// record itself.
	Lists []string
	// Unwrap turns an object into the records, or further objects, it carries; nil and
	// no error when it wraps nothing. It may be nil.
	Unwrap func(object jsontext.Value) ([]jsontext.Value, error)
}

// maxWraps is how deep wrappers may stand in each other, such as an SNS message in an
// SQS message.
const maxWraps = 4

// Split finds the records in a body: an object with a list of records, an array of
// records, one record, or any number of these one after the other (newline-delimited
// JSON). A body whose JSON is broken or cut off is refused whole (events.ErrMalformed);
// what is wrong inside one record is left to its reader.
func Split(b []byte, limit int, shape Shape) ([]jsontext.Value, error) {
	s := splitter{limit: limit, shape: shape}
	if err := s.body(b, 0); err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	if s.empty {
		return nil, fmt.Errorf("read records: %w: the body is empty", events.ErrMalformed)
	}
	return s.records, nil
}

type splitter struct {
	limit   int
	shape   Shape
	records []jsontext.Value
	empty   bool
}

func decoder(b []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(b), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

func malformed(err error) error { return fmt.Errorf("%w: %w", events.ErrMalformed, err) }

// body reads what is at the top.
func (s *splitter) body(b []byte, depth int) error {
	d := decoder(b)
	s.empty = true
	for {
		switch d.PeekKind() {
		case jsontext.KindInvalid:
			if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
				return malformed(err)
			}
			return nil
		case '[':
			if err := s.array(d, depth); err != nil {
				return err
			}
		case '{':
			v, err := d.ReadValue()
			if err != nil {
				return malformed(err)
			}
			if err := s.object(v, depth); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: want objects or arrays of objects", events.ErrMalformed)
		}
		s.empty = false
	}
}

func (s *splitter) array(d *jsontext.Decoder, depth int) error {
	if _, err := d.ReadToken(); err != nil {
		return malformed(err)
	}
	for d.PeekKind() != ']' {
		v, err := d.ReadValue()
		if err != nil {
			return malformed(err)
		}
		if s.shape.Unwrap != nil && v.Kind() == '{' {
			err = s.object(v, depth)
		} else {
			err = s.add(v)
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return malformed(err)
	}
	return nil
}

func (s *splitter) add(v jsontext.Value) error {
	if len(s.records) == s.limit {
		return fmt.Errorf("%w: at most %d per request", ErrTooMany, s.limit)
	}
	s.records = append(s.records, bytes.Clone(v))
	return nil
}

// object is a file of records, a wrapper or a record.
func (s *splitter) object(v jsontext.Value, depth int) error {
	v = bytes.Clone(v)
	if s.shape.Unwrap != nil && depth < maxWraps {
		inner, err := s.shape.Unwrap(v)
		if err != nil {
			return err
		}
		for _, x := range inner {
			if err := s.body(x, depth+1); err != nil {
				return err
			}
		}
		if inner != nil {
			return nil
		}
	}
	list, ok := Member(v, s.shape.Lists...)
	if !ok || list.Kind() == 'n' {
		return s.add(v)
	}
	if list.Kind() != '[' {
		return fmt.Errorf("%w: %s is not an array", events.ErrMalformed, s.shape.Lists[0])
	}
	if depth == maxWraps {
		return s.add(v)
	}
	return s.array(decoder(list), depth+1)
}

// Member is the value of the first member with one of names at the top of object v,
// whose syntax is known to be right.
func Member(v jsontext.Value, names ...string) (jsontext.Value, bool) {
	d := decoder(v)
	if _, err := d.ReadToken(); err != nil {
		return nil, false
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, false
		}
		found := slices.Contains(names, name.String())
		value, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		if found {
			return bytes.Clone(value), true
		}
	}
	return nil, false
}

// Text is the string that is the value of a member of v, "" when it is none.
func Text(v jsontext.Value, name string) string {
	m, ok := Member(v, name)
	if !ok || m.Kind() != '"' {
		return ""
	}
	s, err := jsontext.AppendUnquote(nil, m)
	if err != nil {
		return ""
	}
	return string(s)
}

// PubSub unwraps what Google Pub/Sub pushes: {"message":{"data":base64},"subscription":...}.
func PubSub(v jsontext.Value) ([]jsontext.Value, error) {
	message, ok := Member(v, "message")
	if !ok || message.Kind() != '{' {
		return nil, nil
	}
	if _, ok := Member(v, "subscription"); !ok {
		return nil, nil
	}
	text := Text(message, "data")
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || text == "" {
		return nil, fmt.Errorf("%w: message.data of a Pub/Sub push is not base64", events.ErrMalformed)
	}
	return []jsontext.Value{data}, nil
}

// CloudWatch unwraps what a CloudWatch Logs subscription delivers:
// {"messageType":"DATA_MESSAGE","logEvents":[{"message":text}]}.
func CloudWatch(v jsontext.Value) ([]jsontext.Value, error) {
	if !bytes.Contains(v, []byte(`"logEvents"`)) || Text(v, "messageType") != "DATA_MESSAGE" {
		return nil, nil
	}
	list, ok := Member(v, "logEvents")
	if !ok {
		return nil, nil
	}
	return Strings(list, "message")
}

// Strings are the members named name, JSON in a string each, of the objects in an array.
func Strings(list jsontext.Value, name string) ([]jsontext.Value, error) {
	var objects []jsontext.Value
	if err := json.Unmarshal(list, &objects, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return nil, malformed(err)
	}
	out := []jsontext.Value{}
	for _, o := range objects {
		if s := Text(o, name); s != "" {
			out = append(out, jsontext.Value(s))
		}
	}
	return out, nil
}
