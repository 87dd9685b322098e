package cloudtrail

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Event is the neutral event of one raw record: its id is eventID, its time is
// eventTime, its source "aws:cloudtrail:" and the recipient account. tenant is the
// tenant on whose behalf the record arrived at time seen. Every error wraps one of
// the errors of package events.
func Event(raw []byte, tenant string, seen time.Time) (events.Event, error) {
	r, err := parse(raw)
	if err != nil {
		return events.Event{}, fmt.Errorf("read CloudTrail record: %w", err)
	}
	e, err := r.event(tenant, seen)
	if err != nil {
		return events.Event{}, fmt.Errorf("read CloudTrail record %.64q: %w", r.EventID, err)
	}
	return e, nil
}

func (r record) event(tenant string, seen time.Time) (events.Event, error) {
	at, err := r.at()
	if err != nil {
		return events.Event{}, err
	}
	a, err := r.activity()
	if err != nil {
		return events.Event{}, err
	}
	observed := seen.UTC()
	a.ObservedTime = &observed
	var p events.Payload = events.APICalled{Activity: a}
	if exchanges[a.Action] {
		p = events.TokenExchanged{Activity: a}
	}
	account := cmp.Or(r.RecipientAccountID, r.account())
	if !accountPattern.MatchString(account) {
		account = "unknown"
	}
	e, err := events.New(events.Origin{Source: "aws:cloudtrail:" + account, Tenant: tenant, Time: at, ID: r.EventID}, p)
	if err != nil {
		return events.Event{}, fmt.Errorf("%w: %w", events.ErrSchema, err)
	}
	return e, events.Validate(e)
}

var accountPattern = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// exchanges lists the actions that hand out a credential for another. It is a read-only table.
var exchanges = map[string]bool{
	"sts:AssumeRole": true, "sts:AssumeRoleWithSAML": true, "sts:AssumeRoleWithWebIdentity": true, "sts:AssumeRoot": true,
	"sts:GetFederationToken": true, "sts:GetSessionToken": true, "rolesanywhere:CreateSession": true,
}

func (r record) activity() (events.Activity, error) {
	who := r.who()
	if who == "" {
		return events.Activity{}, fmt.Errorf("%w: userIdentity names nobody", events.ErrSchema)
	}
	service := strings.TrimSuffix(r.EventSource, ".amazonaws.com")
	service, _, _ = strings.Cut(service, ".")
	action := service + ":" + dateSuffix.ReplaceAllString(r.EventName, "")
	a := events.Activity{
		Identity:       identifier(who),
		IdentityKind:   r.kind(),
		IdentityTenant: identifier(r.account()),
		Credential:     identifier(r.UserIdentity.AccessKeyID),
		Session:        text(r.session(), 256),
		Delegation:     r.delegation(),
		VPCEndpoint:    text(r.VPCEndpointID, 256),
		UserAgent:      text(family(r.UserAgent), 512),
		Workload:       text(r.workload(), 512),
		Destination:    text(service+"@"+r.Region, 512),
		Action:         text(action, 256),
		ActionClass:    class(action, truth(r.ReadOnly)),
		Resource:       text(r.resource(), 1024),
		ResourceTenant: identifier(r.resourceAccount()),
		Target:         identifier(r.target(action)),
		MintedID:       identifier(r.minted()),
		Interactive:    r.interactive(),
		Bytes:          r.bytes(),
		Count:          r.count(),
	}
	a.SourceIP, a.SourceService = r.from()
	a.Outcome, a.Error = r.outcome()
	a.Error = text(a.Error, 1024)
	return a, nil
}

// dateSuffix is what Lambda puts behind its action names, as in "AddPermission20150331v2".
var dateSuffix = regexp.MustCompile(`20\d{6}(v\d+)?$`)

// from tells an address from the service name that may stand in its place, which
// happens for calls that a service makes in the caller's name. The published
// records have addresses with leading zeros; they are read as decimal.
func (r record) from() (address, service string) {
	s := strings.TrimSpace(r.SourceIP)
	if addr, err := netip.ParseAddr(plain(s)); err == nil {
		return addr.WithZone("").Unmap().String(), ""
	}
	return "", text(cmp.Or(s, r.UserIdentity.InvokedBy), 256)
}

func plain(s string) string {
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return s
	}
	for i, p := range parts {
		if p != "" {
			parts[i] = cmp.Or(strings.TrimLeft(p, "0"), "0")
		}
	}
	return strings.Join(parts, ".")
}

// outcome is what became of the call, and the source's error.
func (r record) outcome() (events.Outcome, string) {
	code := cmp.Or(r.ErrorCode, r.ErrorMessage)
	if code == "" {
		if look(r.ResponseElements, "ConsoleLogin") == "Failure" {
			return events.OutcomeDenied, "ConsoleLogin Failure"
		}
		return events.OutcomeSuccess, ""
	}
	switch {
	case holds(r.ErrorCode, "Denied", "Unauthorized", "NotAuthorized", "Forbidden"), look(r.ResponseElements, "ConsoleLogin") == "Failure":
		return events.OutcomeDenied, code
	case holds(r.ErrorCode, "Throttl", "SlowDown", "TooManyRequests", "RequestLimitExceeded"):
		return events.OutcomeThrottled, code
	}
	return events.OutcomeError, code
}

func holds(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// interactive reports whether a person was at the console. A call that AWS makes
// itself with a session's key ("AWS Internal") is a forward-access session of the
// caller and says nothing about a console.
func (r record) interactive() bool {
	if r.EventType == "AwsConsoleSignIn" || r.EventName == "ConsoleLogin" || truth(r.FromConsole) {
		return true
	}
	if _, service := r.from(); service != "" {
		return false
	}
	switch family(r.UserAgent) {
	case "console.amazonaws.com", "signin.amazonaws.com", "Mozilla":
		return true
	}
	return false
}

var uuidSuffix = regexp.MustCompile(`[_-][0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

// family is the name of the client without brackets, versions and run ids.
func family(agent string) string {
	s := strings.Trim(strings.TrimSpace(agent), "[]")
	if i := strings.IndexAny(s, "/ ;,("); i > 0 {
		if s == "AWS Internal" {
			return s
		}
		s = s[:i]
	}
	return uuidSuffix.ReplaceAllString(s, "")
}

// bytes is how much was moved, when the record says so.
func (r record) bytes() int64 {
	more, _ := r.AdditionalData.(map[string]any)
	var n int64
	for _, key := range []string{"bytesTransferredIn", "bytesTransferredOut"} {
		if f, ok := more[key].(float64); ok && f > 0 && f < 1<<50 {
			n += int64(f)
		}
	}
	return n
}
