package authzen

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const asking = `{"subject":{"type":"user","id":"ann"},"action":{"name":"read"},"resource":{"type":"book","id":"b1"}}`

func TestMetadata(t *testing.T) {
	for issuer, paths := range map[string][]string{
		"https://pdp.example":     {"/.well-known/authzen-configuration"},
		"https://pdp.example/a/b": {"/.well-known/authzen-configuration/a/b", "/a/b/.well-known/authzen-configuration"},
		"https://pdp.example/":    {"/.well-known/authzen-configuration"},
	} {
		h := serverFor(t, issuer, func(context.Context) (View, error) { return newShelf(), nil })
		for _, path := range paths {
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set("X-Request-ID", "r-1")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Equal(t, 200, w.Code, path)
			require.Equal(t, "application/json", w.Header().Get("Content-Type"))
			require.Equal(t, "public, max-age=300", w.Header().Get("Cache-Control"))
			require.Equal(t, "r-1", w.Header().Get("X-Request-ID"))
			base := strings.TrimSuffix(issuer, "/")
			require.Equal(t, map[string]any{
				"policy_decision_point":       issuer,
				"access_evaluation_endpoint":  base + "/access/v1/evaluation",
				"access_evaluations_endpoint": base + "/access/v1/evaluations",
				"search_subject_endpoint":     base + "/access/v1/search/subject",
				"search_resource_endpoint":    base + "/access/v1/search/resource",
				"search_action_endpoint":      base + "/access/v1/search/action",
			}, unmarshal[map[string]any](t, w.Body.Bytes()))
		}
	}
}

func TestEndpointsLieBelowTheIssuer(t *testing.T) {
	h := serverFor(t, "https://pdp.example/a", func(context.Context) (View, error) { return newShelf("ann read b1"), nil })
	require.Equal(t, 200, ask(h, "/a/access/v1/evaluation", asking).Code)
	require.Equal(t, 404, ask(h, "/access/v1/evaluation", asking).Code)
}

// TestTransport has the rules that all five endpoints share.
func TestTransport(t *testing.T) {
	type change = func(*http.Request)
	header := func(k, v string) change { return func(r *http.Request) { r.Header.Set(k, v) } }
	padded := asking[:len(asking)-1] + `,"pad":"` + strings.Repeat("x", MaxBody) + `"}`
	nested := func(n int) string {
		return asking[:len(asking)-1] + `,"x":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	for _, e := range endpoints {
		for name, c := range map[string]struct {
			body   string
			change change
			status int
		}{
			"ok":                   {asking, nil, 200},
			"charset":              {asking, header("Content-Type", "application/json; charset=UTF-8"), 200},
			"unknown members":      {asking[:len(asking)-1] + `,"new":{"deep":[1]}}`, nil, 200},
			"no credential":        {asking, func(r *http.Request) { r.Header.Del("Authorization") }, 401},
			"no content type":      {asking, func(r *http.Request) { r.Header.Del("Content-Type") }, 415},
			"form":                 {asking, header("Content-Type", "application/x-www-form-urlencoded"), 415},
			"latin 1":              {asking, header("Content-Type", "application/json; charset=latin1"), 415},
			"compressed":           {asking, header("Content-Encoding", "gzip"), 415},
			"too large":            {padded, nil, 413},
			"as deep as may be":    {nested(MaxDepth), nil, 200},
			"too deep":             {nested(MaxDepth + 1), nil, 400},
			"bomb":                 {strings.Repeat(`{"a":`, 200000), nil, 400},
			"empty":                {"", nil, 400},
			"not JSON":             {"{", nil, 400},
			"array":                {"[" + asking + "]", nil, 400},
			"null":                 {"null", nil, 400},
			"two values":           {asking + asking, nil, 400},
			"invalid UTF-8":        {strings.Replace(asking, "ann", "a\xff", 1), nil, 400},
			"member twice":         {strings.Replace(asking, `{"subject"`, `{"subject":{"type":"user","id":"bob"},"subject"`, 1), nil, 400},
			"nested member twice":  {strings.Replace(asking, `"id":"b1"`, `"id":"b1","properties":{"a":1,"a":2}`, 1), nil, 400},
			"ignored member twice": {asking[:len(asking)-1] + `,"new":{"a":1,"a":1}}`, nil, 400},
		} {
			t.Run(e.key+"/"+name, func(t *testing.T) {
				changes := []change{header("X-Request-ID", "id of "+name)}
				if c.change != nil {
					changes = append(changes, c.change)
				}
				w := ask(shelfServer(t, newShelf("ann read b1")), e.path, c.body, changes...)
				require.Equal(t, c.status, w.Code, w.Body.String())
				require.Equal(t, "id of "+name, w.Header().Get("X-Request-ID"))
				require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
				want := "application/json"
				if c.status != 200 {
					want = "application/problem+json"
					require.NotContains(t, w.Body.String(), "decision\"")
				}
				require.Equal(t, want, w.Header().Get("Content-Type"))
			})
		}
	}
	h := shelfServer(t, newShelf())
	w := ask(h, "/access/v1/evaluation", asking)
	require.NotContains(t, w.Header(), "X-Request-Id", "none was sent")
	w = ask(h, "/access/v1/evaluation", asking, func(r *http.Request) { r.Method = "GET" })
	require.Equal(t, 405, w.Code)
}

func TestEvaluation(t *testing.T) {
	requests, responses := schema(t, "evaluation-request.schema.json"), schema(t, "evaluation-response.schema.json")
	long := strings.Repeat("n", MaxName+1)
	for name, c := range map[string]struct {
		body   string
		status int
		want   string // of a 200, else a part of the problem
		bound  bool   // refused for its size, though the schema allows it
	}{
		"permit":                {asking, 200, `{"decision":true,"context":{"policy_version":"v7"}}`, false},
		"deny":                  {strings.Replace(asking, "ann", "eve", 1), 200, `{"decision":false,"context":{"reason":"no policy permits it"}}`, false},
		"empty id":              {strings.Replace(asking, "ann", "", 1), 200, `{"decision":false,"context":{"reason":"no policy permits it"}}`, false},
		"members are of a case": {strings.Replace(asking, "subject", "Subject", 1), 400, "subject is missing", false},
		"no subject":            {`{"action":{"name":"read"},"resource":{"type":"book","id":"b1"}}`, 400, "subject is missing", false},
		"no action":             {`{"subject":{"type":"user","id":"ann"},"resource":{"type":"book","id":"b1"}}`, 400, "action is missing", false},
		"no resource":           {`{"subject":{"type":"user","id":"ann"},"action":{"name":"read"}}`, 400, "resource is missing", false},
		"no subject type":       {strings.Replace(asking, `"type":"user",`, "", 1), 400, "subject.type is missing", false},
		"no subject id":         {strings.Replace(asking, `,"id":"ann"`, "", 1), 400, "subject.id is missing", false},
		"no resource type":      {strings.Replace(asking, `"type":"book",`, "", 1), 400, "resource.type is missing", false},
		"no resource id":        {strings.Replace(asking, `,"id":"b1"`, "", 1), 400, "resource.id is missing", false},
		"no action name":        {strings.Replace(asking, `"name":"read"`, "", 1), 400, "action.name is missing", false},
		"null subject":          {strings.Replace(asking, `{"type":"user","id":"ann"}`, "null", 1), 400, "subject must be an object", false},
		"null id":               {strings.Replace(asking, `"ann"`, "null", 1), 400, "subject.id is missing", false},
		"subject a string":      {strings.Replace(asking, `{"type":"user","id":"ann"}`, `"ann"`, 1), 400, "subject must be an object", false},
		"id a number":           {strings.Replace(asking, `"ann"`, "7", 1), 400, "subject.id", false},
		"type a number":         {strings.Replace(asking, `"book"`, "7", 1), 400, "/type has the wrong type", false},
		"action an array":       {strings.Replace(asking, `{"name":"read"}`, `["read"]`, 1), 400, "action must be an object", false},
		"action name a bool":    {strings.Replace(asking, `"read"`, "true", 1), 400, "/name has the wrong type", false},
		"properties an array":   {strings.Replace(asking, `"id":"b1"`, `"id":"b1","properties":[]`, 1), 400, "resource.properties must be an object", false},
		"action properties":     {strings.Replace(asking, `"name":"read"`, `"name":"read","properties":1`, 1), 400, "action.properties must be an object", false},
		"context a string":      {asking[:len(asking)-1] + `,"context":"now"}`, 400, "context must be an object", false},
		"context null":          {asking[:len(asking)-1] + `,"context":null}`, 400, "context must be an object", false},
		"long id":               {strings.Replace(asking, "ann", long, 1), 400, "subject.id must be at most", true},
		"long type":             {strings.Replace(asking, "book", long, 1), 400, "resource.type must be at most", true},
		"long action":           {strings.Replace(asking, "read", long, 1), 400, "action.name must be at most", true},
		"no decision possible":  {strings.Replace(asking, "ann", "broken", 1), 503, "no decision is possible", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(shelfServer(t, newShelf("ann read b1")), "/access/v1/evaluation", c.body)
			require.Equal(t, c.status, w.Code, w.Body.String())
			var doc any
			require.NoError(t, json.Unmarshal([]byte(c.body), &doc))
			if c.status == 200 {
				require.JSONEq(t, c.want, w.Body.String())
				valid(t, requests, []byte(c.body))
				valid(t, responses, w.Body.Bytes())
				return
			}
			require.Contains(t, w.Body.String(), c.want)
			require.NotContains(t, w.Body.String(), errBroken.Error())
			if !c.bound {
				require.Error(t, requests.Validate(doc), "the suite's schema allows what we refuse")
			}
		})
	}
}

func TestEvaluationHandsOnEverything(t *testing.T) {
	v := newShelf()
	w := ask(shelfServer(t, v), "/access/v1/evaluation", `{"context":{"time":"now","n":9007199254740993},
		"subject":{"id":"a","type":"user","properties":{"team":"x"}},"action":{"name":"read","properties":{"method":"GET"}},
		"resource":{"type":"book","id":"b","properties":{"shelf":{"row":3}}}}`)
	require.Equal(t, 200, w.Code)
	require.Len(t, v.asked, 1)
	require.Equal(t, Evaluation{
		Subject: Entity{"user", "a", []byte(`{"team":"x"}`)}, Action: Action{"read", []byte(`{"method":"GET"}`)},
		Resource: Entity{"book", "b", []byte(`{"shelf":{"row":3}}`)}, Context: []byte(`{"time":"now","n":9007199254740993}`),
	}, v.asked[0])
}

func TestNoViewIsNoDecision(t *testing.T) {
	h := serverFor(t, "https://pdp.example", func(context.Context) (View, error) { return nil, errBroken })
	for _, e := range endpoints {
		w := ask(h, e.path, asking)
		require.Equal(t, 503, w.Code)
		require.Equal(t, "2", w.Header().Get("Retry-After"))
		require.NotContains(t, w.Body.String(), errBroken.Error())
	}
}

// TestEvaluations: ann may read b1 and b3; b2 she may not.
func TestEvaluations(t *testing.T) {
	const (
		yes    = `{"decision":true,"context":{"policy_version":"v7"}}`
		no     = `{"decision":false,"context":{"reason":"no policy permits it"}}`
		broken = `{"decision":false,"context":{"error":{"status":503,"message":"no decision is possible now; ask again in a few seconds"}}}`
		ann    = `"subject":{"type":"user","id":"ann"}`
		read   = `"action":{"name":"read"}`
	)
	missing := func(what, give string) string {
		return fmt.Sprintf(`{"decision":false,"context":{"error":{"status":400,"message":"%s is missing: give %s"}}}`, what, give)
	}
	book := func(id string) string { return `"resource":{"type":"book","id":"` + id + `"}` }
	batch := func(members string, items ...string) string {
		if members != "" {
			members += ","
		}
		return "{" + members + `"evaluations":[{` + strings.Join(items, "},{") + "}]}"
	}
	option := func(semantic string) string { return `"options":{"evaluations_semantic":"` + semantic + `"}` }
	answers := func(list ...string) string { return `{"evaluations":[` + strings.Join(list, ",") + "]}" }
	both, three := ann+","+read, []string{book("b1"), book("b2"), book("b3")}
	tooMany := strings.Repeat(`{},`, MaxEvaluations) + `{}`
	for name, c := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"all members in each":      {batch("", both+","+book("b2"), both+","+book("b1")), 200, answers(no, yes)},
		"defaults":                 {batch(both, three...), 200, answers(yes, no, yes)},
		"override action":          {batch(both, book("b1"), `"action":{"name":"edit"},`+book("b1")), 200, answers(yes, no)},
		"override subject":         {batch(both, book("b1"), `"subject":{"type":"user","id":"eve"},`+book("b1")), 200, answers(yes, no)},
		"override resource":        {batch(both+","+book("b1"), `"x":1`, book("b2")), 200, answers(yes, no)},
		"override is whole":        {batch(both+","+book("b1"), `"subject":{"type":"user"}`), 200, answers(missing("subject.id", "a string"))},
		"execute all":              {batch(both+","+option(ExecuteAll), three...), 200, answers(yes, no, yes)},
		"deny on first deny":       {batch(both+","+option(DenyOnFirstDeny), three...), 200, answers(yes, no)},
		"deny on first: none":      {batch(both+","+option(DenyOnFirstDeny), book("b1"), book("b3")), 200, answers(yes, yes)},
		"deny on first error":      {batch(read+","+option(DenyOnFirstDeny), ann+","+book("b1"), ann, ann+","+book("b3")), 200, answers(yes, missing("resource", "an object"))},
		"permit on first permit":   {batch(both+","+option(PermitOnFirstPermit), three...), 200, answers(yes)},
		"permit on first: later":   {batch(both+","+option(PermitOnFirstPermit), book("b2"), book("b1"), book("b3")), 200, answers(no, yes)},
		"permit on first: none":    {batch(both+","+option(PermitOnFirstPermit), book("b2"), book("b4")), 200, answers(no, no)},
		"other options":            {batch(both+`,"options":{"another_option":"value"}`, three...), 200, answers(yes, no, yes)},
		"error in one":             {batch(both, book("b1"), `"x":1`, book("b3")), 200, answers(yes, missing("resource", "an object"), yes)},
		"wrong type in one":        {batch(both, book("b1"), `"resource":[]`), 200, answers(yes, `{"decision":false,"context":{"error":{"status":400,"message":"resource must be an object"}}}`)},
		"null overrides":           {batch(both+","+book("b1"), `"resource":null`), 200, answers(`{"decision":false,"context":{"error":{"status":400,"message":"resource must be an object"}}}`)},
		"an item is no object":     {`{` + both + `,"evaluations":[7,{` + book("b1") + `}]}`, 200, answers(`{"decision":false,"context":{"error":{"status":400,"message":"an evaluation must be an object"}}}`, yes)},
		"no decision for one":      {batch(both, `"subject":{"type":"user","id":"broken"},`+book("b1"), book("b1")), 200, answers(broken, yes)},
		"no array: single":         {asking, 200, yes},
		"empty array: single":      {asking[:len(asking)-1] + `,"evaluations":[]}`, 200, yes},
		"single, denied":           {strings.Replace(asking, "ann", "eve", 1), 200, no},
		"single needs its members": {`{` + both + `,"evaluations":[]}`, 400, "resource is missing"},
		"nothing at all":           {`{}`, 400, "subject is missing"},
		"evaluations null":         {`{` + both + `,"evaluations":null}`, 400, "evaluations must be an array"},
		"evaluations an object":    {`{` + both + `,"evaluations":{}}`, 400, "evaluations must be an array"},
		"options an array":         {batch(both+`,"options":[]`, three...), 400, "options must be an object"},
		"semantic unknown":         {batch(both+","+option("some"), three...), 400, "evaluations_semantic must be"},
		"semantic a number":        {batch(both+`,"options":{"evaluations_semantic":1}`, three...), 400, "options.evaluations_semantic"},
		"semantic null":            {batch(both+`,"options":{"evaluations_semantic":null}`, three...), 400, "evaluations_semantic must be"},
		"default without id":       {batch(`"subject":{"type":"user"}`, both+","+book("b1")), 400, "subject.id is missing"},
		"default of a wrong type":  {batch(both+`,"resource":"b1"`, both+","+book("b1")), 400, "resource must be an object"},
		"default action":           {batch(ann+`,"action":{}`, both+","+book("b1")), 400, "action.name is missing"},
		"default context":          {batch(both+`,"context":1`, book("b1")), 400, "context must be an object"},
		"duplicate in an item":     {batch(both, book("b1")+","+book("b2")), 400, "twice"},
		"too many":                 {`{"evaluations":[` + tooMany + `]}`, 400, "at most 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(shelfServer(t, newShelf("ann read b1", "ann read b3")), "/access/v1/evaluations", c.body)
			require.Equal(t, c.status, w.Code, w.Body.String())
			if c.status != 200 {
				require.Contains(t, w.Body.String(), c.want)
				return
			}
			require.JSONEq(t, c.want, w.Body.String())
			responses := schema(t, "evaluation-response.schema.json")
			for _, d := range unmarshal[struct{ Evaluations []json.RawMessage }](t, w.Body.Bytes()).Evaluations {
				valid(t, responses, d)
			}
		})
	}
}

func TestMostEvaluationsAndContexts(t *testing.T) {
	v := newShelf("ann read b1")
	body := asking[:len(asking)-1] + `,"context":{"a":1},"evaluations":[{"context":{"b":2}}` + strings.Repeat(`,{}`, MaxEvaluations-1) + `]}`
	w := ask(shelfServer(t, v), "/access/v1/evaluations", body)
	require.Equal(t, 200, w.Code)
	require.Len(t, unmarshal[struct{ Evaluations []Decision }](t, w.Body.Bytes()).Evaluations, MaxEvaluations)
	require.JSONEq(t, `{"b":2}`, string(v.asked[0].Context))
	require.JSONEq(t, `{"a":1}`, string(v.asked[1].Context))
}

func TestShortCircuitAsksNoFurther(t *testing.T) {
	v := newShelf("ann read b1")
	body := asking[:len(asking)-1] + `,"options":{"evaluations_semantic":"permit_on_first_permit"},"evaluations":[{},{},{}]}`
	require.Equal(t, 200, ask(shelfServer(t, v), "/access/v1/evaluations", body).Code)
	require.Len(t, v.asked, 1)
}
