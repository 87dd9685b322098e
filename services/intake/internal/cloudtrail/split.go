package cloudtrail

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
)

// MaxRecord is the largest single record, in bytes. CloudTrail's own limit is 256 KiB.
const MaxRecord = 1 << 20

// ErrTooMany means that a body holds more records than one request may carry.
var ErrTooMany = errors.New("too many records")

// Split finds the records in a body: {"Records":[...]}, an array of records, one
// record, or any number of these one after the other (newline-delimited JSON). The
// results alias b. A body whose JSON is broken or cut off is refused whole
// (events.ErrMalformed); what is wrong inside one record is left to Event.
func Split(b []byte, limit int) ([]jsontext.Value, error) {
	s := splitter{limit: limit, d: jsontext.NewDecoder(bytes.NewBuffer(b), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
	for {
		switch s.d.PeekKind() {
		case jsontext.KindInvalid:
			if _, err := s.d.ReadToken(); !errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("read records: %w: %w", events.ErrMalformed, err)
			}
			if len(s.records) == 0 {
				return nil, fmt.Errorf("read records: %w: the body is empty", events.ErrMalformed)
			}
			return s.records, nil
		case '[':
			if err := s.array(); err != nil {
				return nil, fmt.Errorf("read records: %w", err)
			}
		case '{':
			if err := s.object(); err != nil {
				return nil, fmt.Errorf("read records: %w", err)
			}
		default:
			return nil, fmt.Errorf("read records: %w: want objects or arrays of objects", events.ErrMalformed)
		}
	}
}

type splitter struct {
	d       *jsontext.Decoder
	limit   int
	records []jsontext.Value
}

func (s *splitter) add(v jsontext.Value) error {
	if len(s.records) == s.limit {
		return fmt.Errorf("%w: at most %d per request", ErrTooMany, s.limit)
	}
	s.records = append(s.records, bytes.Clone(v))
	return nil
}

func (s *splitter) array() error {
	if _, err := s.d.ReadToken(); err != nil {
		return fmt.Errorf("%w: %w", events.ErrMalformed, err)
	}
	for s.d.PeekKind() != ']' {
		v, err := s.d.ReadValue()
		if err != nil {
			return fmt.Errorf("%w: %w", events.ErrMalformed, err)
		}
		if err := s.add(v); err != nil {
			return err
		}
	}
	_, err := s.d.ReadToken()
	return err
}

// object is either a file of records or a record. The two are told apart by the
// member Records, which no record has.
func (s *splitter) object() error {
	v, err := s.d.ReadValue()
	if err != nil {
		return fmt.Errorf("%w: %w", events.ErrMalformed, err)
	}
	list, ok := recordsMember(v)
	if !ok {
		return s.add(v)
	}
	inner := splitter{d: jsontext.NewDecoder(bytes.NewBuffer(list), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)), limit: s.limit, records: s.records}
	if inner.d.PeekKind() != '[' {
		return fmt.Errorf("%w: Records is not an array", events.ErrMalformed)
	}
	if err := inner.array(); err != nil {
		return err
	}
	s.records = inner.records
	return nil
}

// recordsMember is the value of the first member named Records at the top of v,
// whose syntax is known to be right.
func recordsMember(v jsontext.Value) (jsontext.Value, bool) {
	d := jsontext.NewDecoder(bytes.NewBuffer(v), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if _, err := d.ReadToken(); err != nil {
		return nil, false
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, false
		}
		found := name.String() == "Records"
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
