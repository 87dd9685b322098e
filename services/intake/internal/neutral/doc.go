package neutral

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
)

// Doc is one record of free-form JSON. A path names members from the outside in; "0"
// steps into an array's first element, and a member that is missing is looked for in
// lower case, as some pipelines write all names.
type Doc map[string]any

// Parse reads one record: an object of at most MaxRecord bytes in which no member
// stands twice.
func Parse(raw []byte) (Doc, error) {
	if err := Size(raw); err != nil {
		return nil, err
	}
	var d Doc
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, JSONError(err)
	}
	if d == nil {
		return nil, fmt.Errorf("%w: want an object", events.ErrSchema)
	}
	return d, nil
}

// Size refuses a record that is too long to be read.
func Size(raw []byte) error {
	if len(raw) > MaxRecord {
		return fmt.Errorf("%w: a record of %d bytes, at most %d are read", events.ErrTooLarge, len(raw), MaxRecord)
	}
	return nil
}

// JSONError says in the terms of package events why JSON could not be read.
func JSONError(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("%w: %w", events.ErrDuplicateMember, err)
	case errors.As(err, &syntax):
		return fmt.Errorf("%w: %w", events.ErrMalformed, err)
	}
	return fmt.Errorf("%w: %w", events.ErrSchema, err)
}

// At is what stands at a path, nil when the path leads nowhere.
func (d Doc) At(path ...string) any { return at(map[string]any(d), path) }

func at(v any, path []string) any {
	for _, step := range path {
		switch x := v.(type) {
		case map[string]any:
			next, ok := x[step]
			if !ok {
				next = x[strings.ToLower(step)]
			}
			v = next
		case []any:
			if step != "0" || len(x) == 0 {
				return nil
			}
			v = x[0]
		default:
			return nil
		}
	}
	return v
}

// Text is the string, number or boolean at a path as text, without space around it.
func (d Doc) Text(path ...string) string { return Text(d.At(path...)) }

// Text is v as text when it is a string, number or boolean.
func Text(v any) string {
	switch x := v.(type) {
	case string:
		if x = strings.TrimSpace(x); x == "null" {
			return ""
		}
		return x
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(x)
	}
	return ""
}

// Or is the first text at one of several members of the record itself.
func (d Doc) Or(names ...string) string {
	for _, n := range names {
		if s := d.Text(n); s != "" {
			return s
		}
	}
	return ""
}

// Object is the object at a path; an empty one when there is none.
func (d Doc) Object(path ...string) Doc {
	m, _ := d.At(path...).(map[string]any)
	return Doc(m)
}

// List is the array at a path.
func (d Doc) List(path ...string) []any {
	l, _ := d.At(path...).([]any)
	return l
}

// Objects are the objects in the array at a path.
func (d Doc) Objects(path ...string) []Doc {
	var out []Doc
	for _, v := range d.List(path...) {
		if m, ok := v.(map[string]any); ok {
			out = append(out, Doc(m))
		}
	}
	return out
}

// Number is the whole number at a path; 0 when there is none.
func (d Doc) Number(path ...string) int64 {
	switch x := d.At(path...).(type) {
	case float64:
		return whole(x)
	case string:
		if n, err := strconv.ParseInt(strings.TrimSpace(x), 10, 64); err == nil {
			return n
		}
	}
	return 0
}

// True reports a boolean that some pipelines write as a string.
func (d Doc) True(path ...string) bool { return d.Text(path...) == "true" }

// Time is the event time at the first of paths that holds anything. A number counts
// seconds, milliseconds, microseconds or nanoseconds, whichever gives a year that can be.
func (d Doc) Time(paths ...[]string) (time.Time, error) {
	for _, p := range paths {
		switch x := d.At(p...).(type) {
		case float64:
			return epoch(strings.Join(p, "."), x)
		case string:
			if x != "" {
				return Time(strings.Join(p, "."), x)
			}
		}
	}
	var names []string
	for _, p := range paths {
		names = append(names, strings.Join(p, "."))
	}
	return time.Time{}, fmt.Errorf("%w: %s is missing", events.ErrSchema, strings.Join(names, " or "))
}

// Time reads an event time. Some pipelines write a space for the T and leave out the Z.
// A year before 2000 is a clock that was not set, see ErrTime.
func Time(name, s string) (time.Time, error) {
	s = strings.Replace(strings.TrimSpace(s), " ", "T", 1)
	if !strings.ContainsAny(s, ", ") {
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
			if t, err := time.Parse(layout, s); err == nil {
				return t.UTC(), Plausible(name, t)
			}
		}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f > 0 {
		return epoch(name, f)
	}
	return time.Time{}, fmt.Errorf("%w: %s is not a timestamp", events.ErrSchema, name)
}

func epoch(name string, f float64) (time.Time, error) {
	const oldest = 946_684_800 // the year 2000, in seconds
	for _, perSecond := range []int64{1e9, 1e6, 1e3, 1} {
		if f >= oldest*float64(perSecond) && f < 1<<62 {
			n := int64(f)
			t := time.Unix(n/perSecond, n%perSecond*(1e9/perSecond)).UTC()
			return t, Plausible(name, t)
		}
	}
	return time.Time{}, fmt.Errorf("%w: %s is %g, before the year 2000 in every unit", ErrTime, name, f)
}

// Plausible refuses event times that no record can have, such as those of a clock that
// was never set. Times in the future are refused at the door, which knows the time.
func Plausible(name string, t time.Time) error {
	if t.Year() < 2000 || t.Year() > 9999 {
		return fmt.Errorf("%w: %s is in the year %d; records before 2000 come from a clock that was not set", ErrTime, name, t.Year())
	}
	return nil
}

// Derived is an id for a record whose source gives it none: equal parts, equal id.
func Derived(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return "derived-" + hex.EncodeToString(h.Sum(nil)[:16])
}
