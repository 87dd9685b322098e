package grant

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func request(target, contentType, body string) (Request, *Error) {
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	return ReadRequest(r)
}

const formType = "application/x-www-form-urlencoded"

func TestReadRequest(t *testing.T) {
	q, e := request("/oauth2/token", formType+"; charset=utf-8", url.Values{
		"grant_type": {GrantJWTBearer}, "assertion": {"a.b.c"}, "scope": {"read write read"}, "audience": {"https://a", "https://b"},
		"resource": {"https://a"}, "task": {"t-1"}, "purpose": {"p"}, "environment": {"prod"}, "data_sensitivity": {"high"},
		"tenant": {"acme"}, "client_id": {"agent-1"}, "ttl": {"60"}, "unknown": {"x"}}.Encode())
	require.Nil(t, e)
	require.Equal(t, Request{Grant: GrantJWTBearer, Proof: "a.b.c", Task: "t-1", Purpose: "p", Environment: "prod", Sensitivity: "high",
		Tenant: "acme", ClientID: "agent-1", Ask: Ask{Scope: []string{"read", "write"}, Audience: []string{"https://a", "https://b"}, TTL: time.Minute}}, q)
}

func TestReadRequestRefuses(t *testing.T) {
	bearer := "grant_type=" + url.QueryEscape(GrantJWTBearer) + "&assertion=a.b.c"
	exchange := "grant_type=" + url.QueryEscape(GrantExchange)
	subject := "&subject_token=s&subject_token_type=" + url.QueryEscape(TypeAccessToken)
	actor := "&actor_token=a&actor_token_type=" + url.QueryEscape(TypeJWT)
	for name, c := range map[string]struct{ target, media, body, code, text string }{
		"no grant":                {"/t", formType, "assertion=x", InvalidRequest, "grant_type is missing"},
		"another grant":           {"/t", formType, "grant_type=password", UnsupportedGrantType, "token-exchange"},
		"no assertion":            {"/t", formType, "grant_type=" + url.QueryEscape(GrantJWTBearer), InvalidRequest, "assertion is missing"},
		"empty is missing":        {"/t", formType, "grant_type=" + url.QueryEscape(GrantJWTBearer) + "&assertion=", InvalidRequest, "assertion is missing"},
		"doubled":                 {"/t", formType, bearer + "&task=a&task=b", InvalidRequest, "task is sent more than once"},
		"doubled grant":           {"/t", formType, bearer + "&grant_type=x", InvalidRequest, "grant_type is sent more than once"},
		"doubled unknown":         {"/t", formType, bearer + "&x=1&x=1", InvalidRequest, "x is sent more than once"},
		"in the URL":              {"/t?assertion=x", formType, bearer, InvalidRequest, "not in the URL"},
		"JSON":                    {"/t", "application/json", "{}", InvalidRequest, "Content-Type"},
		"no content type":         {"/t", "", bearer, InvalidRequest, "Content-Type"},
		"bad escape":              {"/t", formType, bearer + "&task=%zz", InvalidRequest, "not a valid form"},
		"too large":               {"/t", formType, bearer + "&x=" + strings.Repeat("a", 64<<10), InvalidRequest, "larger than"},
		"no subject":              {"/t", formType, exchange + actor, InvalidRequest, "subject_token is missing"},
		"subject of another type": {"/t", formType, exchange + "&subject_token=s&subject_token_type=x" + actor, InvalidRequest, "subject_token_type"},
		"no actor":                {"/t", formType, exchange + subject, InvalidRequest, "actor_token is missing"},
		"actor without type":      {"/t", formType, exchange + subject + "&actor_token=a", InvalidRequest, "actor_token_type"},
		"other requested type":    {"/t", formType, exchange + subject + actor + "&requested_token_type=x", InvalidRequest, "requested_token_type"},
		"scope with two spaces":   {"/t", formType, bearer + "&scope=a++b", InvalidScope, "one space"},
		"scope with a quote":      {"/t", formType, bearer + "&scope=a%22", InvalidScope, "printable"},
		"relative resource":       {"/t", formType, bearer + "&resource=/x", InvalidTarget, "absolute URI"},
		"resource with fragment":  {"/t", formType, bearer + "&resource=https%3A%2F%2Fa%2F%23f", InvalidTarget, "without fragment"},
		"long task":               {"/t", formType, bearer + "&task=" + strings.Repeat("a", 257), InvalidRequest, "task is longer"},
		"control character":       {"/t", formType, bearer + "&task=a%0Ab", InvalidRequest, "control characters"},
		"invalid UTF-8":           {"/t", formType, bearer + "&purpose=%ff", InvalidRequest, "invalid UTF-8"},
		"bad tenant":              {"/t", formType, bearer + "&tenant=A.B", InvalidRequest, "tenant must be"},
		"ttl of nothing":          {"/t", formType, bearer + "&ttl=0", InvalidRequest, "ttl must be"},
		"negative ttl":            {"/t", formType, bearer + "&ttl=-1", InvalidRequest, "ttl must be"},
	} {
		_, e := request(c.target, c.media, c.body)
		require.NotNil(t, e, name)
		require.Equal(t, c.code, e.Code, name)
		require.Contains(t, e.Reason, c.text, name)
	}
}

func TestErrorDescriptionIsPrintable(t *testing.T) {
	w := httptest.NewRecorder()
	writeError(w, refuse(InvalidScope, "scope \"x\\y\"\n\u00e9"))
	require.Equal(t, 400, w.Code)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.JSONEq(t, `{"error":"invalid_scope","error_description":"scope 'x/y'???"}`, w.Body.String())
}
