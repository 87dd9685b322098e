package grant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// launch verifies who starts the task: a person or a service, by a token of a trusted
// issuer, which is good for one launch. The right to launch is not the right to act: the
// credential holds what the identity's registration and the policies give, and nothing of
// what the launcher may do. But it hangs from the launcher: revoke the workload that they
// are, and what they launched ends.
func (m *Minter) launch(ctx context.Context, raw string) (attest.Attested, error) {
	if raw == "" {
		return attest.Attested{}, nil
	}
	a, err := m.Attester.Verify(ctx, raw)
	switch {
	case errors.Is(err, attest.ErrUnavailable):
		return a, unavailable(err, attest.ErrUnavailable.Error())
	case err != nil:
		return a, &Error{Code: InvalidGrant, Reason: "launch_token: " + err.Error(), cause: err}
	}
	sum := sha256.Sum256([]byte(raw))
	switch first, err := m.Once(ctx, "launch", hex.EncodeToString(sum[:]), max(a.Expires.Sub(m.Now()), 0)+attest.MaxAge); {
	case err != nil:
		return attest.Attested{}, unavailable(err, "it cannot be told whether the launch_token was used before")
	case !first:
		return attest.Attested{}, refuse(InvalidGrant, "the launch_token was used before: every launch needs a fresh one")
	}
	return a, nil
}

// admitLaunch checks that who starts the task may. Exchanges go on with a task that runs.
func (d decision) admitLaunch(s registry.Identity) *Error {
	by := d.launcher
	switch {
	case d.parent != nil:
	case by.Subject == "" && len(s.Registration.Launchers) > 0:
		return refuse(InvalidRequest, "launch_token is missing: the registration of %s names who may start its tasks; send a token of theirs", clip(d.ref.Identity))
	case by.Subject != "" && !s.MayLaunch(by.Issuer, by.Subject):
		return refuse(UnauthorizedClient, "%s may not start tasks of %s: its registration names others as launchers", clip(by.Subject), clip(d.ref.Identity))
	}
	return nil
}

// launchedBy is who started the task, for records; nil when nobody else did.
func (d decision) launchedBy() *events.Attestation {
	if d.launcher.Subject == "" {
		return nil
	}
	return &events.Attestation{Issuer: d.launcher.Issuer, Subject: d.launcher.Subject}
}
