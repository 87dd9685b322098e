package policy

import (
	"slices"
	"time"
)

// Ruling is the decision about a whole request: several scopes for several audiences.
type Ruling struct {
	Scope      []string      // what may be granted; none: the request is denied
	Reasons    []string      // ids of the policies that decided, sorted: of what is granted, or of what is denied
	Exceptions []string      // ids of the exceptions that what is granted leans on, sorted
	MaxTTL     time.Duration // 0: the policies say nothing
	Denials    []Denial      // what is not permitted, in the order of the request
}

// Denial is a scope that is not permitted for an audience.
type Denial struct {
	Scope, Audience string
	Reasons         []string
	Why             string
}

// Rule decides about a request. What was asked for is granted whole or not at all; when
// open, no scope was asked for, and those are granted that every audience allows.
func (q *Inquiry) Rule(scopes, audiences []string, open bool) Ruling {
	var r Ruling
	for _, scope := range scopes {
		var of Ruling
		denials := len(r.Denials)
		for _, audience := range audiences {
			v := q.Decide(scope, audience)
			if !v.Allowed {
				r.Denials = append(r.Denials, Denial{scope, audience, v.Reasons, v.Why})
				continue
			}
			of.add(v.Reasons, v.Exceptions, v.MaxTTL)
		}
		if len(r.Denials) == denials {
			r.Scope = append(r.Scope, scope)
			r.add(of.Reasons, of.Exceptions, of.MaxTTL)
		}
	}
	if len(r.Scope) == 0 || !open && len(r.Denials) > 0 {
		denied := Ruling{Denials: r.Denials}
		for _, d := range r.Denials {
			denied.add(d.Reasons, nil, 0)
		}
		r = denied
	}
	r.Reasons, r.Exceptions = unique(r.Reasons), unique(r.Exceptions)
	return r
}

// Granted reports whether anything may be granted.
func (r Ruling) Granted() bool { return len(r.Scope) > 0 }

func (r *Ruling) add(reasons, exceptions []string, maxTTL time.Duration) {
	r.Reasons, r.Exceptions = append(r.Reasons, reasons...), append(r.Exceptions, exceptions...)
	if r.MaxTTL == 0 || maxTTL > 0 && maxTTL < r.MaxTTL {
		r.MaxTTL = maxTTL
	}
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
