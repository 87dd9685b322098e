// Package sources reads the audit logs of Kubernetes, Google Cloud, Azure and Entra,
// GitHub, Okta, OpenAI and Anthropic: a pure function per source that makes one raw
// record neutral, and the shapes in which their records are delivered. Only intake
// imports it.
//
// The readers are lenient: they take what of a record they know and leave out the rest.
// They keep no bodies, no free texts and no secrets; error texts are codes.
package sources

import (
	"fmt"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
)

// path is a path into a record.
func path(steps ...string) []string { return steps }

// outcomeOf reads an HTTP status.
func outcomeOf(status int64) events.Outcome {
	switch {
	case status == 401 || status == 403 || status == 407:
		return events.OutcomeDenied
	case status == 429:
		return events.OutcomeThrottled
	case status >= 400:
		return events.OutcomeError
	}
	return events.OutcomeSuccess
}

// missing says that a record lacks a member without which it cannot be used.
func missing(name string) error { return fmt.Errorf("%w: %s is missing", events.ErrSchema, name) }

// read wraps the error of a reader, which then says which record it was.
func read(what string, r neutral.Record, err error) (neutral.Record, error) {
	if err != nil {
		return neutral.Record{ID: r.ID}, fmt.Errorf("read %s record %.64q: %w", what, r.ID, err)
	}
	return r, nil
}

// last is what follows the last of sep in s.
func last(s, sep string) string { return s[strings.LastIndex(s, sep)+1:] }

// reads reports whether an action's name says that it only reads.
func reads(name string) bool {
	name = strings.ToLower(name)
	for _, p := range []string{"get", "list", "read", "search", "query", "describe", "watch", "view", "fetch", "check", "test", "lookup", "count", "batchget", "export", "download"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
