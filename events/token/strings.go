package token

import (
	"encoding/json"
	"fmt"
	"slices"

	json2 "github.com/go-json-experiment/json"
)

// Strings is a JSON string or array of strings (RFC 7519 section 4.1.3).
type Strings []string

// Has reports whether v is one of s.
func (s Strings) Has(v string) bool { return slices.Contains(s, v) }

// MarshalJSON writes one string as a string and anything else as an array.
func (s Strings) MarshalJSON() ([]byte, error) {
	if len(s) == 1 {
		return json.Marshal(s[0])
	}
	if s == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]string(s))
}

// UnmarshalJSON reads a string or an array of strings; null and anything else are refused.
func (s *Strings) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var one string
		if err := json2.Unmarshal(b, &one); err != nil {
			return fmt.Errorf("read string: %w", err)
		}
		*s = Strings{one}
		return nil
	}
	if len(b) == 0 || b[0] != '[' {
		return fmt.Errorf("read strings: %w: want a string or an array of strings", ErrClaims)
	}
	var raw []json.RawMessage
	if err := json2.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("read strings: %w", err)
	}
	out := make(Strings, len(raw))
	for i, r := range raw {
		if r[0] != '"' {
			return fmt.Errorf("read strings: %w: element %d is not a string", ErrClaims, i)
		}
		if err := json2.Unmarshal(r, &out[i]); err != nil {
			return fmt.Errorf("read strings: %w", err)
		}
	}
	*s = out
	return nil
}
