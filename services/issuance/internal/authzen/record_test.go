package authzen

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrInexpressible is a property or context that Cedar has no value for. A question
// that holds one is denied: without the value, a policy that forbids might not apply.
var ErrInexpressible = errors.New("no Cedar value can stand for it")

// Record is a JSON object as Cedar attributes: strings, booleans, arrays as sets,
// objects as records, whole numbers as long, others as decimal. A member that is null
// is left out; Cedar's has tells it apart. Nothing in it becomes an entity or another
// extension value, whatever it looks like. An absent object is an empty record.
func Record(object jsontext.Value) (cedar.Record, error) {
	if len(object) == 0 {
		return cedar.NewRecord(nil), nil
	}
	v, err := value(object)
	if err != nil {
		return cedar.Record{}, err
	}
	r, ok := v.(cedar.Record)
	if !ok {
		return cedar.Record{}, fmt.Errorf("read object: %w", ErrInexpressible)
	}
	return r, nil
}

// value is nil for null.
func value(v jsontext.Value) (cedar.Value, error) {
	switch v.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return cedar.Boolean(v.Kind() == 't'), nil
	case '"':
		var s string
		if err := json.Unmarshal(v, &s); err != nil {
			return nil, fmt.Errorf("read string: %w", err)
		}
		return cedar.String(s), nil
	case '0':
		return number(string(v))
	case '[':
		var list []jsontext.Value
		if err := json.Unmarshal(v, &list); err != nil {
			return nil, fmt.Errorf("read array: %w", err)
		}
		out := make([]cedar.Value, 0, len(list))
		for _, e := range list {
			c, err := value(e)
			if err != nil {
				return nil, err
			}
			if c == nil {
				return nil, fmt.Errorf("read array: null: %w", ErrInexpressible)
			}
			out = append(out, c)
		}
		return cedar.NewSet(out...), nil
	case '{':
		var members map[string]jsontext.Value
		if err := json.Unmarshal(v, &members); err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
		out := cedar.RecordMap{}
		for k, e := range members {
			c, err := value(e)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", clip(k), err)
			}
			if c != nil {
				out[cedar.String(k)] = c
			}
		}
		return cedar.NewRecord(out), nil
	}
	return nil, fmt.Errorf("read value: %w", ErrInexpressible)
}

func number(text string) (cedar.Value, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return cedar.Long(n), nil
	}
	d, err := types.ParseDecimal(text) // at most four places
	if err != nil {
		return nil, fmt.Errorf("read number %s: %w", clip(text), ErrInexpressible)
	}
	return d, nil
}
