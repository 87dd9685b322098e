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

// shown are the claims of an issuer's tokens that policies may decide by.
type shown []requirement // without values

func policyClaims(names []string) (shown, error) {
	var out shown
	for _, name := range names {
		path := config.ClaimPath(name)
		if path == nil {
			return nil, fmt.Errorf("policy claim %q is no path", name)
		}
		out = append(out, requirement{name: name, path: path})
	}
	return out, nil
}

const maxClaim = 256 // bytes of a claim that a policy sees

// of picks them from verified claims, by the names in the configuration. What is not
// there, no text, number or boolean, or too long, is left out: a policy that asks for it
// must deny.
func (s shown) of(c claims) map[string]string {
	var out map[string]string
	for _, r := range s {
		v, ok := scalar(c.text, r.path)
		if !ok || len(v) > maxClaim {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(s))
		}
		out[r.name] = v
	}
	return out
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
