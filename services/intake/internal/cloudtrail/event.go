package cloudtrail

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
)

// Read makes one raw record neutral: its id is eventID, its time is eventTime, its
// source "aws:cloudtrail:" and the recipient account. Every error wraps one of the
// errors of packages events and neutral.
func Read(raw []byte, _ neutral.Context) (neutral.Record, error) {
	r, err := parse(raw)
	if err != nil {
		return neutral.Record{}, fmt.Errorf("read CloudTrail record: %w", err)
	}
	n, err := r.neutral()
	if err != nil {
		return neutral.Record{}, fmt.Errorf("read CloudTrail record %.64q: %w", r.EventID, err)
	}
	return n, nil
}

func (r record) neutral() (neutral.Record, error) {
	at, err := neutral.Time("eventTime", r.EventTime)
	if err != nil {
		return neutral.Record{}, err
	}
	a, err := r.activity()
	if err != nil {
		return neutral.Record{}, err
	}
	account := cmp.Or(r.RecipientAccountID, r.account())
	if !accountPattern.MatchString(account) {
		account = "unknown"
	}
	n := neutral.Record{ID: r.EventID, Time: at, Source: "aws:cloudtrail:" + account, Activity: a}
	if exchanges[a.Action] {
		n.Form = neutral.Exchange
	}
	return n, nil
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
		Identity:       who,
		IdentityKind:   r.kind(),
		IdentityTenant: r.account(),
		Credential:     r.UserIdentity.AccessKeyID,
		Session:        r.session(),
		Delegation:     r.delegation(),
		VPCEndpoint:    r.VPCEndpointID,
		UserAgent:      neutral.Family(r.UserAgent),
		Workload:       r.workload(),
		Destination:    service + "@" + r.Region,
		Action:         action,
		ActionClass:    class(action, truth(r.ReadOnly)),
		Resource:       r.resource(),
		ResourceTenant: r.resourceAccount(),
		Target:         r.target(action),
		MintedID:       r.minted(),
		Interactive:    r.interactive(),
		Bytes:          r.bytes(),
		Count:          r.count(),
	}
	a.SourceIP, a.SourceService = r.from()
	a.Outcome, a.Error = r.outcome()
	return a, nil
}

// dateSuffix is what Lambda puts behind its action names, as in "AddPermission20150331v2".
var dateSuffix = regexp.MustCompile(`20\d{6}(v\d+)?$`)

// from tells an address from the service that made the call in the caller's name.
func (r record) from() (address, service string) {
	address, service = neutral.From(r.SourceIP)
	if address == "" {
		service = cmp.Or(service, r.UserIdentity.InvokedBy)
	}
	return address, service
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
	case neutral.Holds(r.ErrorCode, "Denied", "Unauthorized", "NotAuthorized", "Forbidden"), look(r.ResponseElements, "ConsoleLogin") == "Failure":
		return events.OutcomeDenied, code
	case neutral.Holds(r.ErrorCode, "Throttl", "SlowDown", "TooManyRequests", "RequestLimitExceeded"):
		return events.OutcomeThrottled, code
	}
	return events.OutcomeError, code
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
	switch neutral.Family(r.UserAgent) {
	case "console.amazonaws.com", "signin.amazonaws.com", "Mozilla":
		return true
	}
	return false
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
