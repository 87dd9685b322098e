// Package killcommand is the signed kill command: a revoke in a file, for the day
// when the API cannot be reached. An operator signs it with the key of his credential;
// revocation takes it from a directory. The command line and revocation import it.
package killcommand

import (
	"errors"
	"fmt"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Typ is the typ of the command's JWS.
const Typ = "lanyard-kill-command"

// MaxLife is how long a command may be valid. Skew is how far the clocks of signer
// and reader may be apart.
const (
	MaxLife = time.Hour
	Skew    = time.Minute
)

// Errors of Open.
var (
	// ErrSignature: it is not a command, or not signed by an operator's key.
	ErrSignature = errors.New("it is not signed by an operator's key")
	// ErrClaims: it is signed, and makes no sense or is for another deployment.
	ErrClaims = errors.New("it is not a command for this deployment")
	// ErrTime: it is over, not valid yet, or valid for too long.
	ErrTime = errors.New("it is not valid now")
)

// Command is the payload of a compact JWS with typ Typ. Times are seconds since 1970
// as in RFC 7519 section 2.
type Command struct {
	Issuer     string        `json:"iss"` // of the operator's credential
	Subject    string        `json:"sub"` // the operator
	Audience   string        `json:"aud"` // issuer URL of the deployment
	ID         string        `json:"jti"`
	IssuedAt   int64         `json:"iat"`
	Expires    int64         `json:"exp"` // at most an hour after iat
	Mode       events.Mode   `json:"mode"`
	Target     events.Target `json:"target"`
	Reason     string        `json:"reason"`
	TTLSeconds int64         `json:"ttl_seconds,omitempty"` // of a freeze
	Confirm    int64         `json:"confirm,omitempty"`     // previewed number of credentials, for broad targets
}

// Sign signs c.
func Sign(k token.Signer, c Command) (string, error) {
	if err := c.check(); err != nil {
		return "", fmt.Errorf("sign kill command: %w", err)
	}
	return k.Sign(Typ, c)
}

// Open reads a command that one of keys signed for audience and that is valid at
// now.
func Open(raw string, keys token.Keys, issuer, audience string, now time.Time) (Command, error) {
	var c Command
	payload, _, err := token.Open(raw, Typ, keys)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if err := json.Unmarshal(payload, &c, json.RejectUnknownMembers(true)); err != nil {
		return c, fmt.Errorf("%w: %w", ErrClaims, err)
	}
	if err := c.check(); err != nil {
		return c, err
	}
	switch {
	case c.Issuer != issuer:
		return c, fmt.Errorf("%w: it is by %q, want %q", ErrClaims, c.Issuer, issuer)
	case c.Audience != audience:
		return c, fmt.Errorf("%w: it is for %q, this is %q", ErrClaims, c.Audience, audience)
	case now.After(time.Unix(c.Expires, 0)):
		return c, fmt.Errorf("%w: it was valid until %s; sign a new one", ErrTime, time.Unix(c.Expires, 0).UTC().Format(time.RFC3339))
	case now.Add(Skew).Before(time.Unix(c.IssuedAt, 0)):
		return c, fmt.Errorf("%w: it is from the future, %s; check the clocks", ErrTime, time.Unix(c.IssuedAt, 0).UTC().Format(time.RFC3339))
	}
	return c, nil
}

func (c Command) check() error {
	switch {
	case c.Issuer == "", c.Subject == "", c.Audience == "", c.ID == "", c.Reason == "":
		return fmt.Errorf("%w: iss, sub, aud, jti and reason are required", ErrClaims)
	case len(c.ID) > 128:
		return fmt.Errorf("%w: jti is longer than 128 bytes", ErrClaims)
	case c.Mode != events.ModeRevoke && c.Mode != events.ModeFreeze && c.Mode != events.ModeLift:
		return fmt.Errorf("%w: mode is %q, want revoke, freeze or lift", ErrClaims, c.Mode)
	case c.IssuedAt <= 0 || c.Expires <= c.IssuedAt || c.Expires-c.IssuedAt > int64(MaxLife/time.Second):
		return fmt.Errorf("%w: it may be valid for at most %s", ErrTime, MaxLife)
	}
	return nil
}

// Request is what c asks for, and the id of the request: the same for the same
// command, so that a file that comes twice is one revoke.
func (c Command) Request() (id string, p events.RevocationRequested) {
	t := c.Target
	return events.DeterministicID("kill-command", c.ID, string(c.Mode), t.Handle, t.Kind, t.Tenant, t.ID),
		events.RevocationRequested{Mode: c.Mode, Target: t, Reason: c.Reason, RequestedBy: c.Subject, TTLSeconds: c.TTLSeconds, Confirm: c.Confirm}
}

// Result is what became of a command, the content of the file beside it.
type Result struct {
	State      string    `json:"state"` // accepted, refused or pending
	Revocation string    `json:"revocation,omitempty"`
	Code       string    `json:"code,omitempty"` // of a refusal
	Reason     string    `json:"reason,omitempty"`
	At         time.Time `json:"at"`
}

// States of a Result, and the suffixes of its file. A pending one is on this
// process's disk and is carried out as soon as the bus can be reached.
const (
	Accepted = "accepted"
	Refused  = "refused"
	Pending  = "pending"
)

// Suffix of a command's file in the inbox.
const Suffix = ".jws"
