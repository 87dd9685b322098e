package policy

import (
	"iter"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// head is what a policy's scope demands of principal and resource; the zero EntityUID
// demands nothing that could be looked up.
type head struct{ principal, resource cedar.EntityUID }

// headOf reads the scope of p. Only entities are looked up; what else the scope says
// (is, action) is left to the evaluation.
func headOf(p *cedar.Policy) head {
	a := (*ast.Policy)(p.AST())
	return head{scoped(a.Principal), scoped(a.Resource)}
}

func scoped(n ast.IsScopeNode) cedar.EntityUID {
	switch s := n.(type) {
	case ast.ScopeTypeEq:
		return s.Entity
	case ast.ScopeTypeIn:
		return s.Entity
	case ast.ScopeTypeIsIn:
		return s.Entity
	}
	return cedar.EntityUID{}
}

// sort orders what the index holds, so that equal sets answer alike.
func (s *Set) sort() {
	for _, rules := range s.index {
		slices.SortFunc(rules, func(a, b *rule) int { return strings.Compare(string(a.id), string(b.id)) })
	}
}

// slice is the part of a set that can apply to one question: the policies whose scope
// names the principal or something that it is in, and the resource or nothing. The
// others are false for it whatever they say, and Cedar decides without them the same.
type slice struct {
	set        *Set
	principals *[5]cedar.EntityUID // the principal, what it is in, and the zero value
	resource   cedar.EntityUID     // an audience is in nothing
	without    []cedar.PolicyID
}

// All implements cedar.PolicyIterator.
func (s slice) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i, p := range s.principals {
			if slices.Contains(s.principals[:i], p) {
				continue // an identity without owner has the zero value twice
			}
			for _, r := range [2]cedar.EntityUID{s.resource, {}} {
				for _, rule := range s.set.index[head{p, r}] {
					if !slices.Contains(s.without, rule.id) && !yield(rule.id, rule.policy) {
						return
					}
				}
			}
		}
	}
}
