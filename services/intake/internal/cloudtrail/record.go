package cloudtrail

import (
	"fmt"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
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
// refused, and what only names a file of records says so.
func parse(raw []byte) (record, error) {
	var r record
	if err := neutral.Size(raw); err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, neutral.JSONError(err)
	}
	if r.EventID == "" {
		if err := notification(raw); err != nil {
			return r, err
		}
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
