package token

import (
	"fmt"
	"time"
)

// Verify opens an access token and checks issuer, audience and times with the
// given leeway. It does not check the lineage; that is the guard's part.
//
// When the signature verified, the claims are returned even with an error, so that
// a denial can say whose token it was. They must not be acted on.
func Verify(raw string, keys Keys, want Expect) (Claims, error) {
	payload, _, err := Open(raw, TypAccess, keys)
	if err != nil {
		return Claims{}, err
	}
	c, err := ParseClaims(payload)
	if err != nil {
		return Claims{}, err
	}
	return c, c.check(want)
}

// Check compares iss, aud and the times like Verify, for claims whose token verified
// before.
func (c Claims) Check(want Expect) error { return c.check(want) }

// check compares iss, aud (RFC 9068 section 4) and the times (RFC 7519 sections
// 4.1.4 to 4.1.6).
func (c Claims) check(want Expect) error {
	switch {
	case want.Issuer == "" || c.Issuer != want.Issuer:
		return fmt.Errorf("verify token: %w: %q", ErrIssuer, clip(c.Issuer))
	case want.Audience == "" || !c.Audience.Has(want.Audience):
		return fmt.Errorf("verify token: %w: want %q", ErrAudience, want.Audience)
	}
	early, late := want.Now.Add(want.Leeway), want.Now.Add(-want.Leeway)
	switch {
	case !late.Before(time.Unix(c.Expires, 0)):
		return fmt.Errorf("verify token: %w", ErrExpired)
	case early.Before(time.Unix(c.NotBefore, 0)), early.Before(time.Unix(c.IssuedAt, 0)):
		return fmt.Errorf("verify token: %w", ErrNotYet)
	}
	return nil
}
