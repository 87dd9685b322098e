package rules

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/interpreter"

	"github.com/lanyard-nhi/lanyard/events"
)

// Event is one use of an identity, as rules see it. It answers the names of the neutral
// event's members, see Fields.
type Event struct {
	ID       string
	Type     string // short, such as "api_called"
	Tenant   string
	Time     time.Time // event time
	Activity *events.Activity
}

// EventOf reads an activity event; false for other types.
func EventOf(e events.Event) (Event, bool, error) {
	out := Event{ID: e.ID(), Tenant: events.Tenant(e), Time: e.Time().UTC()}
	var err error
	switch e.Type() {
	case events.TypeAPICalled:
		var p events.APICalled
		p, err = events.As[events.APICalled](e)
		out.Type, out.Activity = "api_called", &p.Activity
	case events.TypeToolCalled:
		var p events.ToolCalled
		p, err = events.As[events.ToolCalled](e)
		out.Type, out.Activity = "tool_called", &p.Activity
	case events.TypeTokenExchanged:
		var p events.TokenExchanged
		p, err = events.As[events.TokenExchanged](e)
		out.Type, out.Activity = "token_exchanged", &p.Activity
	default:
		return out, false, nil
	}
	return out, err == nil, err
}

// Field is one name that rules may use.
type Field struct {
	Name string
	Type string // string, int, bool, timestamp or list(string)
}

// Fields are the names, in the order of the neutral event. What the event does not say is
// the empty string, 0, false, an empty list or the year 1: absence is no value.
func Fields() []Field {
	out := []Field{{"id", "string"}, {"event_type", "string"}, {"tenant", "string"}, {"time", "timestamp"}}
	t := reflect.TypeFor[events.Activity]()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if kind := kindOf(t.Field(i).Type); kind != "" {
			out = append(out, Field{name, kind})
		}
	}
	return out
}

func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[*time.Time]() || t == reflect.TypeFor[time.Time]():
		return "timestamp"
	case t == reflect.TypeFor[[]events.Party]() || t == reflect.TypeFor[[]string]():
		return "list(string)"
	case t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Bool:
		return "bool"
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return "int"
	}
	return ""
}

// table finds members of the activity by name. It is made once per Compiler.
type table struct {
	kinds map[string]string
	index map[string]int
	names []string
}

func newTable() *table {
	t := &table{kinds: map[string]string{}, index: map[string]int{}}
	for _, f := range Fields() {
		t.kinds[f.Name] = f.Type
		t.names = append(t.names, f.Name)
	}
	a := reflect.TypeFor[events.Activity]()
	for i := range a.NumField() {
		name, _, _ := strings.Cut(a.Field(i).Tag.Get("json"), ",")
		t.index[name] = i
	}
	slices.Sort(t.names)
	return t
}

func celType(kind string) *cel.Type {
	switch kind {
	case "int":
		return cel.IntType
	case "bool":
		return cel.BoolType
	case "timestamp":
		return cel.TimestampType
	case "list(string)":
		return cel.ListType(cel.StringType)
	}
	return cel.StringType
}

// value is a member as CEL takes it; false when there is no such name.
func (t *table) value(e *Event, name string) (any, bool) {
	switch name {
	case "id":
		return e.ID, true
	case "event_type":
		return e.Type, true
	case "tenant":
		return e.Tenant, true
	case "time":
		return e.Time, true
	}
	i, ok := t.index[name]
	if !ok {
		return nil, false
	}
	v := reflect.ValueOf(e.Activity).Elem().Field(i)
	switch x := v.Interface().(type) {
	case *time.Time:
		if x == nil {
			return time.Time{}, true
		}
		return x.UTC(), true
	case []events.Party:
		out := make([]string, len(x))
		for i, p := range x {
			out[i] = p.Tenant + "/" + p.Identity
		}
		return out, true
	case []string:
		if x == nil {
			return []string{}, true
		}
		return x, true
	}
	switch v.Kind() {
	case reflect.String:
		return v.String(), true
	case reflect.Bool:
		return v.Bool(), true
	case reflect.Int, reflect.Int64:
		return v.Int(), true
	}
	return nil, false
}

// text is a member for people, for grouping and for counting distinct values.
func (t *table) text(e *Event, name string) string {
	v, _ := t.value(e, name)
	switch x := v.(type) {
	case string:
		return x
	case []string:
		return strings.Join(x, ",")
	case time.Time:
		if x.IsZero() {
			return ""
		}
		return x.Format(time.RFC3339)
	case int64:
		return strconv.FormatInt(x, 10)
	case bool:
		return strconv.FormatBool(x)
	}
	return fmt.Sprint(v)
}

// activation hands an event to CEL.
type activation struct {
	t *table
	e *Event
}

// ResolveName implements interpreter.Activation.
func (a activation) ResolveName(name string) (any, bool) { return a.t.value(a.e, name) }

// Parent implements interpreter.Activation.
func (a activation) Parent() interpreter.Activation { return nil }
