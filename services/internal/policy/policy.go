// Package policy decides by Cedar policies what an identity may hold for a task. The
// issuance service decides by it and the command checks and tests policies with it.
//
// A Set is one version of the policies: files of Cedar text, checked against the
// schema that is embedded here. It is immutable; who decides takes one Set and asks it
// everything about a request, so no decision mixes versions.
//
// Four annotations mean something: @id names a policy and is required; @reason is for
// people and goes into denials; @max_ttl on a permit bounds the life of what it grants;
// @exceptions("never") on a forbid makes exceptions to it void. @note is a remark.
package policy

import (
	"crypto/sha256"
	_ "embed" // schema and default policies
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"
)

//go:embed schema.cedarschema
var schemaText string

//go:embed default.cedar
var defaultText string

// VersionPrefix begins the version of every set that this package makes.
const VersionPrefix = "cedar/"

// MaxTTL is the longest life that an @max_ttl may name.
const MaxTTL = 15 * time.Minute

// Schema is the Cedar schema that policies are checked against.
func Schema() string { return schemaText }

// File is one file of a set: a base name that ends in ".cedar", and Cedar text.
type File struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Set is one version of the policies. It is safe for concurrent use.
type Set struct {
	version string
	files   []File
	rules   map[cedar.PolicyID]*rule
	index   map[head][]*rule
	nobody  nobody
}

// rule is a policy with what its annotations say.
type rule struct {
	id     cedar.PolicyID
	policy *cedar.Policy
	at     cedar.Position
	reason string        // for people; may be empty
	maxTTL time.Duration // 0: it says nothing
	never  bool          // exceptions to it are void
}

func (r *rule) forbids() bool { return r.policy.Effect() == cedar.Forbid }

// Default is the set of an installation that has no other.
func Default() []File { return []File{{Name: "default.cedar", Text: defaultText}} }

// Version names the content of a set: "cedar/" and the first 64 bits of SHA-256 over
// its files in order of name, each length-prefixed, in hex.
func Version(files []File) string {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	h := sha256.New()
	for _, f := range sorted {
		for _, s := range []string{f.Name, f.Text} {
			_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
			_, _ = h.Write([]byte(s))
		}
	}
	return VersionPrefix + hex.EncodeToString(h.Sum(nil)[:8])
}

// Version is the version of the set, see the function of that name.
func (s *Set) Version() string { return s.version }

// Files are the files that the set was made of, in order of name.
func (s *Set) Files() []File { return slices.Clone(s.files) }

// Summary is a policy of a set as people list it.
type Summary struct {
	ID         string `json:"id"`
	Effect     string `json:"effect"`
	File       string `json:"file"`
	Line       int    `json:"line"`
	Reason     string `json:"reason,omitempty"`
	MaxTTL     string `json:"max_ttl,omitempty"`
	Exceptions string `json:"exceptions,omitempty"`
}

// Policies are the policies of the set, in order of id.
func (s *Set) Policies() []Summary {
	out := make([]Summary, 0, len(s.rules))
	for id, r := range s.rules {
		p := Summary{ID: string(id), Effect: "permit", File: r.at.Filename, Line: r.at.Line, Reason: r.reason}
		if r.forbids() {
			p.Effect = "forbid"
		}
		if r.maxTTL > 0 {
			p.MaxTTL = r.maxTTL.String()
		}
		if r.never {
			p.Exceptions = never
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Summary) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Liftable reports whether the set has a forbid of that id to which exceptions count;
// known is false when it has no policy of that id.
func (s *Set) Liftable(id string) (liftable, known bool) {
	r, ok := s.rules[cedar.PolicyID(id)]
	return ok && r.forbids() && !r.never, ok
}
