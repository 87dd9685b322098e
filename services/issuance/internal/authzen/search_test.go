package authzen

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type answer struct {
	Results []map[string]string `json:"results"`
	Page    struct {
		NextToken *string `json:"next_token"`
		Count     *int    `json:"count"`
		Total     *int    `json:"total"`
	} `json:"page"`
}

func TestSearch(t *testing.T) {
	const (
		ann  = `"subject":{"type":"user","id":"ann"}`
		read = `"action":{"name":"read"}`
		b1   = `"resource":{"type":"book","id":"b1"}`
		who  = `"subject":{"type":"user"}`
		what = `"resource":{"type":"book"}`
	)
	all := func(results string, n int) string {
		return fmt.Sprintf(`{"results":[%s],"page":{"next_token":"","count":%d,"total":%d}}`, results, n, n)
	}
	for name, c := range map[string]struct {
		search, members string
		status          int
		want            string
	}{
		"subjects":                   {"subject", who + "," + read + "," + b1, 200, all(`{"type":"user","id":"ann"},{"type":"user","id":"bob"}`, 2)},
		"subject id ignored":         {"subject", `"subject":{"type":"user","id":"bob"},` + read + "," + b1, 200, all(`{"type":"user","id":"ann"},{"type":"user","id":"bob"}`, 2)},
		"even a bad one":             {"subject", `"subject":{"type":"user","id":[7]},` + read + "," + b1, 200, all(`{"type":"user","id":"ann"},{"type":"user","id":"bob"}`, 2)},
		"subjects, unknown resource": {"subject", who + "," + read + `,"resource":{"type":"book","id":"b9"}`, 200, all("", 0)},
		"subjects, unknown type":     {"subject", `"subject":{"type":"robot"},` + read + "," + b1, 200, all("", 0)},
		"subjects, unknown action":   {"subject", who + `,"action":{"name":"burn"},` + b1, 200, all("", 0)},
		"subjects, no type":          {"subject", `"subject":{},` + read + "," + b1, 400, "subject.type is missing"},
		"subjects, no subject":       {"subject", read + "," + b1, 400, "subject is missing"},
		"subjects, no action":        {"subject", who + "," + b1, 400, "action is missing"},
		"subjects, no resource":      {"subject", who + "," + read, 400, "resource is missing"},
		"subjects, no resource id":   {"subject", who + "," + read + "," + what, 400, "resource.id is missing"},
		"resources":                  {"resource", ann + "," + read + "," + what, 200, all(`{"type":"book","id":"b1"},{"type":"book","id":"b3"}`, 2)},
		"resource id ignored":        {"resource", ann + "," + read + "," + b1, 200, all(`{"type":"book","id":"b1"},{"type":"book","id":"b3"}`, 2)},
		"resources, unknown subject": {"resource", `"subject":{"type":"user","id":"zoe"},` + read + "," + what, 200, all("", 0)},
		"resources, unknown type":    {"resource", ann + "," + read + `,"resource":{"type":"film"}`, 200, all("", 0)},
		"resources, no type":         {"resource", ann + "," + read + `,"resource":{"id":"b1"}`, 400, "resource.type is missing"},
		"resources, no subject id":   {"resource", who + "," + read + "," + what, 400, "subject.id is missing"},
		"resources, no action":       {"resource", ann + "," + what, 400, "action is missing"},
		"resources, not listable":    {"resource", `"subject":{"type":"user","id":"nobody-can-list"},` + read + "," + what, 503, "no decision is possible"},
		"resources, not decidable":   {"resource", `"subject":{"type":"user","id":"broken"},` + read + "," + what, 503, "no decision is possible"},
		"actions":                    {"action", ann + "," + b1, 200, all(`{"name":"lend"},{"name":"read"}`, 2)},
		"action ignored":             {"action", ann + `,"action":7,` + b1, 200, all(`{"name":"lend"},{"name":"read"}`, 2)},
		"actions, unknown subject":   {"action", `"subject":{"type":"user","id":"zoe"},` + b1, 200, all("", 0)},
		"actions, no resource":       {"action", ann, 400, "resource is missing"},
		"actions, no subject":        {"action", b1, 400, "subject is missing"},
		"actions, no resource id":    {"action", ann + "," + what, 400, "resource.id is missing"},
		"context a string":           {"action", ann + "," + b1 + `,"context":"x"`, 400, "context must be an object"},
		"page an array":              {"action", ann + "," + b1 + `,"page":[]`, 400, "page must be an object"},
		"page null":                  {"action", ann + "," + b1 + `,"page":null`, 400, "page must be an object"},
		"limit negative":             {"action", ann + "," + b1 + `,"page":{"limit":-1}`, 400, "/limit has the wrong type"},
		"limit a fraction":           {"action", ann + "," + b1 + `,"page":{"limit":1.5}`, 400, "/limit has the wrong type"},
		"limit a string":             {"action", ann + "," + b1 + `,"page":{"limit":"1"}`, 400, "/limit has the wrong type"},
		"token a number":             {"action", ann + "," + b1 + `,"page":{"token":1}`, 400, "/token has the wrong type"},
		"token empty":                {"action", ann + "," + b1 + `,"page":{"token":""}`, 200, all(`{"name":"lend"},{"name":"read"}`, 2)},
		"page properties":            {"action", ann + "," + b1 + `,"page":{"properties":1}`, 400, "page.properties must be an object"},
		"huge limit":                 {"action", ann + "," + b1 + `,"page":{"limit":4000000000}`, 200, all(`{"name":"lend"},{"name":"read"}`, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			v := newShelf("ann read b1", "ann read b3", "bob read b1", "ann lend b1", "bob lend b2")
			w := ask(shelfServer(t, v), "/access/v1/search/"+c.search, "{"+c.members+"}")
			require.Equal(t, c.status, w.Code, w.Body.String())
			if c.status == 200 {
				require.JSONEq(t, c.want, w.Body.String())
			} else {
				require.Contains(t, w.Body.String(), c.want)
			}
		})
	}
}

// library is a shelf of n books b00000... of which ann may read those that keep says.
func library(n int, keep func(int) bool) *shelf {
	v := newShelf()
	for i := range n {
		reader := "bob"
		if keep(i) {
			reader = "ann"
		}
		v.may[reader] = append(v.may[reader], fmt.Sprintf("read b%05d", i))
	}
	return v
}

func resourceSearch(page string) string {
	return `{"subject":{"type":"user","id":"ann"},"action":{"name":"read"},"resource":{"type":"book"},"context":{"x":1,"y":2},"page":` + page + `}`
}

func TestPaging(t *testing.T) {
	third := func(i int) bool { return i%3 == 0 }
	for name, c := range map[string]struct {
		books, limit int
		keep         func(int) bool
		pages        []int // results on each
		total        []int // -1: not told
	}{
		"none":                {10, 4, func(int) bool { return false }, []int{0}, []int{0}},
		"one page exactly":    {12, 4, third, []int{4}, []int{4}},
		"two pages":           {15, 4, third, []int{4, 1}, []int{5, 5}},
		"single steps":        {9, 1, third, []int{1, 1, 1}, []int{3, 3, 3}},
		"default limit":       {303, -1, third, []int{100, 1}, []int{101, 101}},
		"largest page":        {MaxPage + 1, MaxPage + 50, func(int) bool { return true }, []int{MaxPage, 1}, []int{MaxPage + 1, MaxPage + 1}},
		"more than the work":  {2*maxWork + 10, 1000, third, []int{667, 667, 3}, []int{-1, -1, 1337}},
		"work without result": {maxWork + 5, 10, func(i int) bool { return i > maxWork }, []int{0, 4}, []int{-1, 4}},
		"just the work":       {maxWork, 1000, third, []int{667}, []int{667}},
	} {
		t.Run(name, func(t *testing.T) {
			h := shelfServer(t, library(c.books, c.keep))
			var got, totals []int
			seen, token := map[string]bool{}, ""
			for {
				page := fmt.Sprintf(`{"token":%q,"limit":%d}`, token, c.limit)
				if c.limit < 0 {
					page = fmt.Sprintf(`{"token":%q}`, token)
				}
				w := ask(h, "/access/v1/search/resource", resourceSearch(page))
				require.Equal(t, 200, w.Code, w.Body.String())
				a := unmarshal[answer](t, w.Body.Bytes())
				for _, r := range a.Results {
					require.False(t, seen[r["id"]], "%s twice", r["id"])
					seen[r["id"]] = true
				}
				require.Equal(t, len(a.Results), *a.Page.Count)
				got = append(got, len(a.Results))
				if a.Page.Total == nil {
					totals = append(totals, -1)
				} else {
					totals = append(totals, *a.Page.Total)
				}
				if token = *a.Page.NextToken; token == "" {
					break
				}
				require.Less(t, len(got), 20, "no end")
			}
			require.Equal(t, c.pages, got)
			require.Equal(t, c.total, totals)
			for i := range c.books {
				require.Equal(t, c.keep(i), seen[fmt.Sprintf("b%05d", i)], i)
			}
		})
	}
}

func TestLimitZeroCounts(t *testing.T) {
	h := shelfServer(t, library(10, func(int) bool { return true }))
	a := unmarshal[answer](t, ask(h, "/access/v1/search/resource", resourceSearch(`{"limit":0}`)).Body.Bytes())
	require.Empty(t, a.Results)
	require.Equal(t, 10, *a.Page.Total)
	b := unmarshal[answer](t, ask(h, "/access/v1/search/resource", resourceSearch(fmt.Sprintf(`{"limit":3,"token":%q}`, *a.Page.NextToken))).Body.Bytes())
	require.Equal(t, "b00000", b.Results[0]["id"])
}

func TestPagesSurviveChange(t *testing.T) {
	v := library(6, func(int) bool { return true })
	h := shelfServer(t, v)
	a := unmarshal[answer](t, ask(h, "/access/v1/search/resource", resourceSearch(`{"limit":2}`)).Body.Bytes())
	v.may["ann"] = append(v.may["ann"][1:], "read b00001a") // b00000 goes, one comes behind the border
	b := unmarshal[answer](t, ask(h, "/access/v1/search/resource", resourceSearch(fmt.Sprintf(`{"limit":2,"token":%q}`, *a.Page.NextToken))).Body.Bytes())
	require.Equal(t, []map[string]string{{"type": "book", "id": "b00001a"}, {"type": "book", "id": "b00002"}}, b.Results)
}

func TestPageTokens(t *testing.T) {
	v := library(6, func(int) bool { return true })
	h := shelfServer(t, v)
	first := unmarshal[answer](t, ask(h, "/access/v1/search/resource", resourceSearch(`{"limit":2}`)).Body.Bytes())
	token := *first.Page.NextToken
	require.NotContains(t, token, "b0000")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "b00001", "a token must not show its cursor")
	request := func(tok string) string { return resourceSearch(fmt.Sprintf(`{"limit":2,"token":%q}`, tok)) }
	flipped := func(i int) string {
		b := append([]byte{}, raw...)
		b[i] ^= 1
		return base64.RawURLEncoding.EncodeToString(b)
	}
	another := serverFor(t, "https://pdp.example", func(context.Context) (View, error) { return v, nil })
	for name, c := range map[string]struct {
		h      http.Handler
		search string
		body   string
		as     string
		status int
	}{
		"same request":           {h, "resource", request(token), "acme/pep", 200},
		"another process":        {another, "resource", request(token), "acme/pep", 200},
		"another limit":          {h, "resource", strings.Replace(request(token), `"limit":2`, `"limit":1`, 1), "acme/pep", 200},
		"members in other order": {h, "resource", strings.Replace(request(token), `"x":1,"y":2`, `"y":2, "x":1`, 1), "acme/pep", 200},
		"unknown member":         {h, "resource", strings.Replace(request(token), `{"subject"`, `{"new":1,"subject"`, 1), "acme/pep", 200},
		"another subject":        {h, "resource", strings.Replace(request(token), "ann", "bob", 1), "acme/pep", 400},
		"another action":         {h, "resource", strings.Replace(request(token), "read", "lend", 1), "acme/pep", 400},
		"another type":           {h, "resource", strings.Replace(request(token), "book", "film", 1), "acme/pep", 400},
		"another context":        {h, "resource", strings.Replace(request(token), `"x":1`, `"x":2`, 1), "acme/pep", 400},
		"another search":         {h, "subject", strings.Replace(request(token), `"book"`, `"book","id":"b1"`, 1), "acme/pep", 400},
		"another caller":         {h, "resource", request(token), "acme/other", 400},
		"another tenant":         {h, "resource", request(token), "rival/pep", 400},
		"nonce changed":          {h, "resource", request(flipped(0)), "acme/pep", 400},
		"text changed":           {h, "resource", request(flipped(14)), "acme/pep", 400},
		"tag changed":            {h, "resource", request(flipped(len(raw) - 1)), "acme/pep", 400},
		"cut":                    {h, "resource", request(token[:20]), "acme/pep", 400},
		"short":                  {h, "resource", request("AAAA"), "acme/pep", 400},
		"not base64":             {h, "resource", request("***"), "acme/pep", 400},
		"padded":                 {h, "resource", request(token + "="), "acme/pep", 400},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(c.h, "/access/v1/search/"+c.search, c.body, as(c.as))
			require.Equal(t, c.status, w.Code, w.Body.String())
		})
	}
	pages, err := NewPages([]byte("another secret"))
	require.NoError(t, err)
	_, err = (&Server{Pages: pages}).open(token, nil)
	require.Error(t, err)
}

// TestResultsEvaluateTrue: what a search found, an evaluation permits (section 8.4).
func TestResultsEvaluateTrue(t *testing.T) {
	h := shelfServer(t, library(30, func(i int) bool { return i%2 == 0 }))
	a := unmarshal[answer](t, ask(h, "/access/v1/search/resource", resourceSearch(`{}`)).Body.Bytes())
	require.Len(t, a.Results, 15)
	for _, r := range a.Results {
		w := ask(h, "/access/v1/evaluation", strings.Replace(asking, "b1", r["id"], 1))
		require.True(t, unmarshal[Decision](t, w.Body.Bytes()).Decision, r)
	}
}
