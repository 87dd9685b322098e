// Package connector is the kit for ending credentials that live in other systems: a
// database role, a cache user, a token at an OAuth server. A connector ends one such
// account and says truthfully whether it is dead. Anybody may import it; the suite in
// connectortest tells whether an implementation keeps the contract.
//
// Lanyard's cascade drives connectors in four steps. The accepted revocation is the
// stored intent; End acts; Verify proves; only then a receipt is signed. Any of it may
// happen again after a crash, so both calls must be safe to repeat.
package connector

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Target is one account to end. It never holds a secret.
type Target struct {
	Request    string // id of this act, the same at every try; pass it on where the system takes one
	Revocation string // id of the revocation
	Reason     string // for the system's own log
	Tenant     string // whose account it is
	Secret     string // id of the managed secret, unique in the tenant
	Account    string // what the system calls it, such as a role's name
}

// Outcome is how an act ended.
type Outcome string

// The outcomes of End. What went wrong is an error instead, see ErrUnreachable and
// ErrRefused.
const (
	// Enforced: the account was alive and this call ended it.
	Enforced Outcome = "enforced"
	// AlreadyDead: there was nothing left to end. That is success, not an error.
	AlreadyDead Outcome = "already_dead"
	// UnsupportedUntil: the system cannot end it before Result.Until, when it ends by
	// itself.
	UnsupportedUntil Outcome = "unsupported_until"
)

// Result of End.
type Result struct {
	Outcome Outcome
	Until   time.Time // for UnsupportedUntil; zero otherwise
	Detail  string    // for people, such as "3 sessions cut"; no secrets
}

// Status is what Verify found.
type Status struct {
	// Dead: the system refuses the account now, and no session of it is open.
	Dead bool
	// Until is when it dies by itself, when it cannot be ended before; zero otherwise.
	Until time.Time
	// Detail says how that was seen, for people; no secrets.
	Detail string
}

// Description is what a connector can do, for previews and documentation.
type Description struct {
	Kind     string // such as "postgres"
	Ends     string // how it ends an account, one line
	Verifies string // how it proves that, one line
	Sessions bool   // open sessions are cut
	Suspends bool   // implements Suspender
}

// Connector ends accounts in one downstream system. It is safe for concurrent use,
// also on one account.
//
// A method returns by the time its context ends. Its errors wrap ErrUnreachable when
// trying later may help and ErrRefused when only a person can help; an error of
// neither kind counts as unreachable. No error, detail or log line holds a secret, the
// connector's own credentials included.
type Connector interface {
	// Describe is constant.
	Describe() Description
	// End makes the account useless and cuts its sessions. It is idempotent: a dead or
	// unknown account is AlreadyDead. It touches nothing but this account.
	End(ctx context.Context, t Target) (Result, error)
	// Verify looks at the system itself, never at what End remembers. Dead may be true
	// only when the system would refuse the account.
	Verify(ctx context.Context, t Target) (Status, error)
}

// Suspender is implemented by connectors of systems that can stop an account and let
// it go on later as it was. A freeze uses it.
type Suspender interface {
	// Suspend is as End, until Resume.
	Suspend(ctx context.Context, t Target) (Result, error)
	// Resume ends a suspension. It must not revive what End has ended.
	Resume(ctx context.Context, t Target) error
}

// Canary is implemented by connectors that can make an account only to end it, which
// proves that the switch works.
type Canary interface {
	// MakeCanary makes an account that may do nothing, or finds it.
	MakeCanary(ctx context.Context, tenant string) (Target, error)
}

// Why an act failed.
var (
	// ErrUnreachable: the system did not answer or could not do it now. Trying again
	// may help.
	ErrUnreachable = errors.New("the downstream cannot be reached")
	// ErrRefused: the system answered and will not do it, such as for lack of
	// privileges. Trying again does not help until somebody changes something.
	ErrRefused = errors.New("the downstream refuses")
)

// Unreachable wraps err as one that may pass.
func Unreachable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, ErrUnreachable, err)
}

// Refused wraps err as one that only a person can mend.
func Refused(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, ErrRefused, err)
}

// Final reports whether trying again cannot help by itself.
func Final(err error) bool { return errors.Is(err, ErrRefused) }

// Check refuses targets that no system may be asked about: an empty account, one over
// 256 bytes, or one with control characters. Call it first in End and Verify.
func (t Target) Check() error {
	if t.Account == "" || len(t.Account) > 256 {
		return Refused("check account", fmt.Errorf("its name has %d bytes, want 1 to 256", len(t.Account)))
	}
	for _, c := range t.Account {
		if c < ' ' || c == 0x7f || c == '\uFFFD' {
			return Refused("check account", errors.New("its name holds a control character or is no UTF-8"))
		}
	}
	return nil
}
