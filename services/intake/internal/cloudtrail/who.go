package cloudtrail

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
)

// who is the identity that acted. For a session it is what the session was made
// from: a session name changes with every run, a role does not.
func (r record) who() string {
	u := r.UserIdentity
	switch u.Type {
	case "AssumedRole", "FederatedUser":
		if u.SessionContext.Issuer.ARN != "" {
			return u.SessionContext.Issuer.ARN
		}
		if role := roleOfSession(u.ARN); role != "" {
			return role
		}
	case "AWSService":
		if u.InvokedBy != "" {
			return u.InvokedBy
		}
	case "WebIdentityUser", "SAMLUser":
		if u.IdentityProvider != "" && u.UserName != "" {
			return u.IdentityProvider + "/" + u.UserName
		}
	case "IdentityCenterUser":
		if u.OnBehalfOf.UserID != "" {
			return u.OnBehalfOf.UserID
		}
	}
	return cmp.Or(u.ARN, u.UserName, u.PrincipalID, u.InvokedBy)
}

// roleOfSession makes arn:aws:iam::1:role/R of arn:aws:sts::1:assumed-role/R/S.
func roleOfSession(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 {
		return ""
	}
	rest, ok := strings.CutPrefix(parts[5], "assumed-role/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return parts[0] + ":" + parts[1] + ":iam::" + parts[4] + ":role/" + name
}

// account is the AWS account of the identity.
func (r record) account() string {
	return cmp.Or(r.UserIdentity.AccountID, r.UserIdentity.SessionContext.Issuer.AccountID)
}

func (r record) kind() events.IdentityKind {
	switch r.UserIdentity.Type {
	case "AssumedRole", "FederatedUser", "IAMUser":
		return events.KindServiceAccount
	case "AWSService", "WebIdentityUser":
		return events.KindWorkload
	}
	return ""
}

// session is the name of a role session.
func (r record) session() string {
	u := r.UserIdentity
	if u.Type != "AssumedRole" {
		return ""
	}
	return u.ARN[strings.LastIndexByte(u.ARN, '/')+1:]
}

var instance = regexp.MustCompile(`^i-[0-9a-zA-Z]+$`)

// workload is what ran with the credential. A session name with a timestamp in it
// would be a new workload each time, so digits are masked; a person's e-mail
// address is no workload.
func (r record) workload() string {
	s := r.session()
	switch {
	case r.UserIdentity.SessionContext.EC2RoleDelivery != "", instance.MatchString(s):
		return "ec2-role"
	case s != "" && !strings.Contains(s, "@"):
		return "session-name:" + neutral.Masked(s)
	}
	return r.UserIdentity.InvokedBy
}

// delegation is on whose behalf the session acts.
func (r record) delegation() []events.Party {
	who := cmp.Or(r.UserIdentity.OnBehalfOf.UserID, r.UserIdentity.SessionContext.SourceIdentity)
	account := strings.ToLower(r.account())
	if who == "" || !events.ValidTenant(account) {
		return nil
	}
	return []events.Party{{Tenant: account, Identity: who}}
}
