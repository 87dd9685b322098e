package attest

import (
	"fmt"
	"maps"
	"slices"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// requirement is a claim that every token of an issuer must have.
type requirement struct {
	name  string   // as configured
	path  []string // members, outermost first
	value string
}

func requirements(claims map[string]string) ([]requirement, error) {
	var out []requirement
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		path := config.ClaimPath(name)
		if path == nil || claims[name] == "" {
			return nil, fmt.Errorf("required claim %q is no path with a value", name)
		}
		out = append(out, requirement{name, path, claims[name]})
	}
	return out, nil
}

// require checks verified claims. The error names the claim, but neither value.
func (c claims) require(list []requirement) error {
	for _, r := range list {
		if got, ok := scalar(c.text, r.path); !ok || got != r.value {
			return fmt.Errorf("%w: %s", ErrRequired, r.name)
		}
	}
	return nil
}

// scalar is the text, number or boolean at path, numbers and booleans as they are
// written.
func scalar(v jsontext.Value, path []string) (string, bool) {
	for _, member := range path {
		var object map[string]jsontext.Value
		if v.Kind() != '{' || json.Unmarshal(v, &object) != nil {
			return "", false
		}
		var ok bool
		if v, ok = object[member]; !ok {
			return "", false
		}
	}
	switch v.Kind() {
	case '"':
		var s string
		err := json.Unmarshal(v, &s)
		return s, err == nil
	case '0', 't', 'f':
		return string(v), true
	}
	return "", false
}
