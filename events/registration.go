package events

import (
	"errors"
	"fmt"
	"strings"
)

// Check says what is wrong with a declaration beyond what its schema can say, for people:
// somebody must answer for the identity, and of a third party's account it must be said
// whose it is and what is not known of it. It does not check Keys.
func (r Registration) Check() error {
	var missing []string
	for _, f := range []struct{ name, value string }{
		{"identity", r.Identity}, {"owner", r.Owner}, {"feature", r.Feature}, {"purpose", r.Purpose},
	} {
		if strings.TrimSpace(f.value) == "" {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("give %s", strings.Join(missing, ", "))
	}
	switch r.Kind {
	case KindAgent, KindServiceAccount, KindAPIKey, KindOAuthApp, KindWorkload:
	default:
		return fmt.Errorf("unknown kind %q: want agent, service_account, api_key, oauth_app or workload", clip(string(r.Kind)))
	}
	switch r.KillSwitch {
	case "identity", "feature", "owner":
	default:
		return errors.New("kill_switch must be identity, feature or owner")
	}
	if r.HeartbeatSeconds != 0 && (r.HeartbeatSeconds < 10 || r.HeartbeatSeconds > 86400) {
		return errors.New("heartbeat_seconds must be 10 to 86400, or left out")
	}
	return r.checkThirdParty()
}

func (r Registration) checkThirdParty() error {
	consent := len(r.GrantedScopes) > 0 || r.ConsentedBy != "" || len(r.DataReached) > 0
	switch {
	case r.Vendor == "" && (consent || r.VendorManaged || len(r.Unknowns) > 0):
		return errors.New("what a third party reaches needs its vendor")
	case r.VendorManaged && r.Kind == KindAgent:
		return errors.New("vendor_managed is for accounts inside a vendor's service, not for agents")
	case r.VendorManaged && len(r.Unknowns) == 0:
		return errors.New("a vendor_managed identity needs unknowns, what is not known of it")
	}
	return nil
}
