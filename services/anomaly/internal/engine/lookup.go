package engine

import "github.com/lanyard-nhi/lanyard/events"

// Registration is what is registered under a name or an alias in a tenant, nil when
// nothing is.
func (e *Engine) Registration(tenant, name string) *events.Registration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.facts.Registration(tenant, name)
}

// Quote makes s one word of a POSIX shell.
func Quote(s string) string { return quote(s) }
