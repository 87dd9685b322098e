package grant

import (
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// Ask is what a request asks for. Empty lists ask for what is allowed.
type Ask struct {
	Scope    []string
	Audience []string
	TTL      time.Duration  // 0: the default
	Details  []token.Detail // nil: what the parent has; empty: none
}

// Ceiling is something a credential may not exceed: the identity's registration, the
// parent credential, a trust record.
type Ceiling struct {
	Name        string // for people
	Scope       []string
	Audience    []string
	AnyAudience bool      // it says nothing about audiences
	Expires     time.Time // zero: it says nothing about time
	MaxDepth    int       // longest chain of delegations; 0: it says nothing about depth
	// Detail reports whether it allows an authorization detail; nil: it allows none.
	Detail func(token.Detail) bool
	Held   []token.Detail // what is passed on when none are asked for
}

// Limits hold for every credential.
type Limits struct {
	Now      time.Time
	TTL      time.Duration // when none is asked for
	MaxTTL   time.Duration
	MaxDepth int
}

// Granted is what a credential will hold: a subset of every ceiling in every
// dimension.
type Granted struct {
	Scope    []string
	Audience []string
	Expires  time.Time // whole seconds
	Depth    int       // delegations above it
	Details  []token.Detail
}

// Narrow is the one place where it is decided how much a credential may hold. It
// grants what was asked, whole or not at all; what was not asked for becomes the
// most that every ceiling allows. It is pure.
func Narrow(ask Ask, depth int, ceilings []Ceiling, l Limits) (Granted, *Error) {
	g := Granted{Depth: depth}
	var e *Error
	if g.Scope, e = narrowScope(ask.Scope, ceilings); e != nil {
		return Granted{}, e
	}
	if g.Audience, e = narrowAudience(ask.Audience, ceilings); e != nil {
		return Granted{}, e
	}
	if g.Details, e = narrowDetails(ask.Details, ceilings); e != nil {
		return Granted{}, e
	}
	if g.Expires, e = narrowTime(ask.TTL, ceilings, l); e != nil {
		return Granted{}, e
	}
	if depth > l.MaxDepth {
		return Granted{}, refuse(InvalidRequest, "the chain of delegations would be %d long, at most %d are allowed", depth, l.MaxDepth)
	}
	for _, c := range ceilings {
		if c.MaxDepth > 0 && depth > c.MaxDepth {
			return Granted{}, refuse(InvalidRequest, "the chain of delegations would be %d long, %s allows %d", depth, c.Name, c.MaxDepth)
		}
	}
	return g, nil
}

func narrowScope(asked []string, ceilings []Ceiling) ([]string, *Error) {
	if len(asked) == 0 {
		var most []string
		for i, c := range ceilings {
			most = intersect(i, most, c.Scope)
		}
		if len(most) == 0 {
			return nil, refuse(InvalidScope, "no scope is allowed by all of %s", names(ceilings))
		}
		return most, nil
	}
	for _, c := range ceilings {
		for _, s := range asked {
			if !slices.Contains(c.Scope, s) {
				return nil, refuse(InvalidScope, "scope %s is not among those of %s: %s", clip(s), c.Name, list(c.Scope))
			}
		}
	}
	return slices.Clone(asked), nil
}

func narrowAudience(asked []string, ceilings []Ceiling) ([]string, *Error) {
	var bounding []Ceiling
	for _, c := range ceilings {
		if !c.AnyAudience {
			bounding = append(bounding, c)
		}
	}
	if len(asked) == 0 {
		var most []string
		for i, c := range bounding {
			most = intersect(i, most, c.Audience)
		}
		switch len(most) {
		case 0:
			return nil, refuse(InvalidTarget, "no audience is allowed by all of %s", names(bounding))
		case 1:
			return most, nil
		}
		return nil, refuse(InvalidTarget, "name the audience, one or more of: %s", list(most))
	}
	for _, c := range bounding {
		for _, a := range asked {
			if !slices.Contains(c.Audience, a) {
				return nil, refuse(InvalidTarget, "audience %s is not among those of %s: %s", clip(a), c.Name, list(c.Audience))
			}
		}
	}
	return slices.Clone(asked), nil
}

// narrowDetails grants each detail that is asked for as it is, or nothing. When none are
// asked for, those of the parent are left that every ceiling allows.
func narrowDetails(asked []token.Detail, ceilings []Ceiling) ([]token.Detail, *Error) {
	allowed := func(d token.Detail) (string, bool) {
		for _, c := range ceilings {
			if c.Detail == nil || !c.Detail(d) {
				return c.Name, false
			}
		}
		return "", true
	}
	if asked == nil {
		var left []token.Detail
		for _, c := range ceilings {
			for _, d := range c.Held {
				if _, ok := allowed(d); ok {
					left = append(left, d)
				}
			}
		}
		return left, nil
	}
	for _, d := range asked {
		if by, ok := allowed(d); !ok {
			return nil, refuse(InvalidDetails, "an authorization detail of type %s is more than %s allows", clip(d.Type), by)
		}
	}
	return slices.Clone(asked), nil
}

func narrowTime(asked time.Duration, ceilings []Ceiling, l Limits) (time.Time, *Error) {
	ttl := l.TTL
	if asked > 0 {
		ttl = asked
	}
	if ttl > l.MaxTTL {
		if asked > 0 {
			return time.Time{}, refuse(InvalidRequest, "ttl of %s is above the ceiling of %s", asked, l.MaxTTL)
		}
		ttl = l.MaxTTL
	}
	end := l.Now.Add(ttl).Truncate(time.Second)
	for _, c := range ceilings {
		if c.Expires.IsZero() || !end.After(c.Expires) {
			continue
		}
		if asked > 0 {
			return time.Time{}, refuse(InvalidRequest, "ttl of %s would outlive %s, which ends in %s", asked, c.Name, c.Expires.Sub(l.Now).Truncate(time.Second))
		}
		end = c.Expires.Truncate(time.Second)
	}
	if end.Sub(l.Now) < time.Second {
		return time.Time{}, refuse(InvalidGrant, "less than a second would be left of the credential's life; begin again with a fresh one")
	}
	return end, nil
}

// intersect is b for the first ceiling and what both hold for later ones.
func intersect(i int, a, b []string) []string {
	if i == 0 {
		return slices.Clone(b)
	}
	return slices.DeleteFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

func names(ceilings []Ceiling) string {
	out := make([]string, len(ceilings))
	for i, c := range ceilings {
		out[i] = c.Name
	}
	return list(out)
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}
