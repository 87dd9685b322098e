package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// ErrInvalid is wrapped by every error that says what is wrong with policies.
var ErrInvalid = errors.New("the policies are not valid")

// Limits of a set.
const (
	MaxFiles    = 256
	MaxText     = 2 << 20 // bytes of all files
	MaxPolicies = 10_000
	// MaxPolicy is the most that one policy may hold, in bytes without comments and space. It also
	// bounds how deep expressions nest: the parser's recursion has no limit of its own,
	// and a process whose stack is full cannot be saved.
	MaxPolicy = 16 << 10
)

const never = "never"

var (
	fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,57}\.cedar$`)
	// parseError is how cedar-go tells where a text is wrong.
	parseError = regexp.MustCompile(`parse error at <input>:(\d+):\d+ (.*)`)
	policyID   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$`)
)

// Parse makes a set of files, which must hold valid policies with respect to the
// schema. The error names every fault as "file:line: policy: fault" and wraps
// ErrInvalid.
func Parse(files []File) (*Set, error) {
	v, err := validator()
	if err != nil {
		return nil, err
	}
	s := &Set{version: Version(files), nobody: newNobody(), rules: map[cedar.PolicyID]*rule{}, index: map[head][]*rule{},
		files: slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Name, b.Name) })}
	if err := limits(s.files); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var faults []error
	for _, f := range s.files {
		if line := tooLong(f.Text); line > 0 {
			faults = append(faults, fmt.Errorf("%s:%d: a policy is longer than %d bytes; a ';' or '\"' may be missing", f.Name, line, MaxPolicy))
			continue
		}
		list, err := cedar.NewPolicyListFromBytes(f.Name, []byte(f.Text))
		if err != nil {
			faults = append(faults, errors.New(syntax(f.Name, err)))
			continue
		}
		for _, p := range list {
			if err := s.add(v, p); err != nil {
				faults = append(faults, err)
			}
		}
	}
	switch {
	case len(faults) > 0:
	case len(s.rules) == 0:
		faults = append(faults, errors.New("no policies: everything would be denied; write a forbid of everything if that is wanted"))
	case len(s.rules) > MaxPolicies:
		faults = append(faults, fmt.Errorf("%d policies; at most %d", len(s.rules), MaxPolicies))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w:\n%w", ErrInvalid, errors.Join(faults...))
	}
	s.sort()
	return s, nil
}

// tooLong is the line in which a policy of text exceeds MaxPolicy, 0 when none does.
func tooLong(text string) int {
	size, line := 0, 1
	var quoted, comment bool
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n':
			line++
			if comment = false; !quoted {
				continue
			}
		case comment:
			continue
		case quoted && c == '\\':
			i++
			size++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '/' && strings.HasPrefix(text[i:], "//"):
			comment = true
			continue
		case !quoted && c == ';':
			size = 0
		case !quoted && (c == ' ' || c == '\t' || c == '\r'):
			continue
		}
		if size++; size > MaxPolicy {
			return line
		}
	}
	return 0
}

// syntax puts the place of a syntax error in front, as everywhere.
func syntax(file string, err error) string {
	if m := parseError.FindStringSubmatch(err.Error()); m != nil {
		return file + ":" + m[1] + ": " + m[2]
	}
	return file + ": " + err.Error()
}

func validator() (*validate.Validator, error) {
	var sc schema.Schema
	sc.SetFilename("schema.cedarschema")
	if err := sc.UnmarshalCedar([]byte(schemaText)); err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	r, err := sc.Resolve()
	if err != nil {
		return nil, fmt.Errorf("resolve schema: %w", err)
	}
	return validate.New(r), nil
}

// limits checks files sorted by name.
func limits(files []File) error {
	if len(files) > MaxFiles {
		return fmt.Errorf("%d files; at most %d", len(files), MaxFiles)
	}
	size := 0
	for i, f := range files {
		switch {
		case !fileName.MatchString(f.Name):
			return fmt.Errorf("file name %q: use letters, digits, '.', '_' and '-', at most 64 in all, and end in .cedar", f.Name)
		case i > 0 && files[i-1].Name == f.Name:
			return fmt.Errorf("file %s is there twice", f.Name)
		case !utf8.ValidString(f.Text):
			return fmt.Errorf("%s is not UTF-8", f.Name)
		}
		size += len(f.Text)
	}
	if size > MaxText {
		return fmt.Errorf("%d bytes of policies; at most %d", size, MaxText)
	}
	return nil
}

// add checks p and enters it in the set.
func (s *Set) add(v *validate.Validator, p *cedar.Policy) error {
	r, err := annotated(p)
	if err != nil {
		return at(p, err)
	}
	if other, ok := s.rules[r.id]; ok {
		return at(p, fmt.Errorf(`@id(%q) is the id of the policy at %s:%d too; ids are unique in a set`, r.id, other.at.Filename, other.at.Line))
	}
	if err := v.Policy("", (*ast.Policy)(p.AST())); err != nil {
		return at(p, fmt.Errorf("policy %s: %s", r.id, strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	s.rules[r.id] = r
	h := headOf(p)
	s.index[h] = append(s.index[h], r)
	return nil
}

func at(p *cedar.Policy, err error) error {
	return fmt.Errorf("%s:%d: %w", p.Position().Filename, p.Position().Line, err)
}

// annotated reads the annotations. One that means nothing here is refused: a misspelt
// @max_ttl would give more than its author wants.
func annotated(p *cedar.Policy) (*rule, error) {
	r := &rule{policy: p, at: p.Position()}
	notes := p.Annotations()
	id, ok := notes["id"]
	if !ok {
		return nil, errors.New(`the policy has no id: write @id("name") before it`)
	}
	if !policyID.MatchString(string(id)) {
		return nil, fmt.Errorf("@id(%q): use letters, digits, '.', '_', '/' and '-', at most 64", string(id))
	}
	r.id = cedar.PolicyID(id)
	for key, value := range notes {
		text := string(value)
		switch key {
		case "id", "note":
		case "reason":
			if r.reason = text; len(text) > 256 || text == "" {
				return nil, fmt.Errorf("policy %s: @reason needs 1 to 256 bytes", r.id)
			}
		case "max_ttl":
			d, err := time.ParseDuration(text)
			switch {
			case r.forbids():
				return nil, fmt.Errorf("policy %s: @max_ttl is for permits; a forbid grants nothing", r.id)
			case err != nil || d < time.Second || d > MaxTTL || d%time.Second != 0:
				return nil, fmt.Errorf("policy %s: @max_ttl(%q): give whole seconds from 1s to %s, such as \"2m\"", r.id, text, MaxTTL)
			}
			r.maxTTL = d
		case "exceptions":
			if !r.forbids() || text != never {
				return nil, fmt.Errorf(`policy %s: @exceptions can only be "never", and on a forbid`, r.id)
			}
			r.never = true
		default:
			return nil, fmt.Errorf("policy %s: @%s means nothing here: use @id, @reason, @max_ttl, @exceptions, or @note for a remark", r.id, key)
		}
	}
	return r, nil
}
