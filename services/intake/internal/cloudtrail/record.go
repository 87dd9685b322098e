package cloudtrail

import (
	"errors"
	"fmt"
	"strings"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
)

// record is the part of a CloudTrail record that is used (record format 1.11).
type record struct {
	EventID            string         `json:"eventID"`
	EventTime          string         `json:"eventTime"`
	EventType          string         `json:"eventType"`
	EventSource        string         `json:"eventSource"`
	EventName          string         `json:"eventName"`
	Region             string         `json:"awsRegion"`
	RecipientAccountID string         `json:"recipientAccountId"`
	SourceIP           string         `json:"sourceIPAddress"`
	UserAgent          string         `json:"userAgent"`
	ErrorCode          string         `json:"errorCode"`
	ErrorMessage       string         `json:"errorMessage"`
	VPCEndpointID      string         `json:"vpcEndpointId"`
	FromConsole        jsontext.Value `json:"sessionCredentialFromConsole"`
	ReadOnly           jsontext.Value `json:"readOnly"`
	UserIdentity       identity       `json:"userIdentity"`
	Resources          []resource     `json:"resources"`
	RequestParameters  any            `json:"requestParameters"`
	ResponseElements   any            `json:"responseElements"`
	AdditionalData     any            `json:"additionalEventData"`
}

type identity struct {
	Type             string  `json:"type"`
	PrincipalID      string  `json:"principalId"`
	ARN              string  `json:"arn"`
	AccountID        string  `json:"accountId"`
	AccessKeyID      string  `json:"accessKeyId"`
	UserName         string  `json:"userName"`
	InvokedBy        string  `json:"invokedBy"`
	IdentityProvider string  `json:"identityProvider"`
	OnBehalfOf       userRef `json:"onBehalfOf"`
	SessionContext   session `json:"sessionContext"`
}

type userRef struct {
	UserID string `json:"userId"`
}

type session struct {
	SourceIdentity  string `json:"sourceIdentity"`
	EC2RoleDelivery string `json:"ec2RoleDelivery"`
	Issuer          issuer `json:"sessionIssuer"`
}

type issuer struct {
	ARN       string `json:"arn"`
	AccountID string `json:"accountId"`
}

type resource struct {
	ARN       string `json:"ARN"`
	AccountID string `json:"accountId"`
	Type      string `json:"type"`
}

// parse reads one record. Members it does not know are skipped, doubled ones are
// refused.
func parse(raw []byte) (record, error) {
	var r record
	if len(raw) > MaxRecord {
		return r, fmt.Errorf("%w: a record of %d bytes, at most %d are read", events.ErrTooLarge, len(raw), MaxRecord)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		var syntax *jsontext.SyntacticError
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			return r, fmt.Errorf("%w: %w", events.ErrDuplicateMember, err)
		case errors.As(err, &syntax):
			return r, fmt.Errorf("%w: %w", events.ErrMalformed, err)
		}
		return r, fmt.Errorf("%w: %w", events.ErrSchema, err)
	}
	for _, m := range []struct{ name, value string }{
		{"eventID", r.EventID}, {"eventTime", r.EventTime}, {"eventSource", r.EventSource}, {"eventName", r.EventName},
	} {
		if m.value == "" {
			return r, fmt.Errorf("%w: %s is missing", events.ErrSchema, m.name)
		}
	}
	return r, nil
}

// at is the event time. Some pipelines write a space for the T and leave out the Z.
func (r record) at() (time.Time, error) {
	s := strings.Replace(r.EventTime, " ", "T", 1)
	if strings.ContainsAny(s, ", ") {
		return time.Time{}, fmt.Errorf("%w: eventTime is not a timestamp", events.ErrSchema)
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil && t.Year() >= 2000 && t.Year() <= 9999 {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: eventTime is not a timestamp", events.ErrSchema)
}

// look finds a string in free-form JSON by its path; "0" steps into an array's first
// element. It is "" when the path leads nowhere or not to a string.
func look(doc any, path ...string) string {
	for _, step := range path {
		switch d := doc.(type) {
		case map[string]any:
			doc = d[step]
		case []any:
			if step != "0" || len(d) == 0 {
				return ""
			}
			doc = d[0]
		default:
			return ""
		}
	}
	s, _ := doc.(string)
	return s
}

// truth reads a boolean that some pipelines write as a string.
func truth(v jsontext.Value) bool {
	return string(v) == "true" || string(v) == `"true"`
}
