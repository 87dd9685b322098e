package sigma

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/rules"
)

const head = "title: T\nid: 1\nlevel: high\ntags: [attack.t1098.001, attack.persistence]\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n"

// compile reads a file and compiles what it holds.
func compile(t testing.TB, text string) ([]*rules.Rule, []rules.Problem) {
	t.Helper()
	c, err := rules.NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	ws, problems := Read("f.yml", []byte(text))
	rs, worse := c.Place("f.yml", ws)
	return rs, append(problems, worse...)
}

// hits gives events a second apart and counts alerts.
func hits(t *testing.T, text string, as ...events.Activity) int {
	t.Helper()
	rs, problems := compile(t, text)
	if len(problems) > 0 {
		t.Fatalf("%v\n%s", problems, text)
	}
	e, n := rules.NewEngine(rs), 0
	for i := range as {
		as[i].Identity = "arn:aws:iam::1:user/bot"
		n += len(e.Judge(rules.Event{ID: fmt.Sprint(i), Type: "api_called", Tenant: "acme", Time: time.Unix(int64(1e9+i), 0), Activity: &as[i]}))
	}
	return n
}

func TestSearches(t *testing.T) {
	a := events.Activity{Action: "iam:CreateAccessKey", Resource: "userName=Admin*1", SourceIP: "10.1.2.3", Error: "AccessDenied", Bytes: 5, Interactive: true,
		Scopes: []string{"a", "b"}, Destination: "iam@eu-west-1", UserAgent: "aws-cli"}
	for search, want := range map[string]bool{
		"eventName: createaccesskey":                            true,
		"eventName: [DeleteUser, CreateAccessKey]":              true,
		"eventSource: iam.amazonaws.com":                        true,
		"eventSource: sts.amazonaws.com":                        false,
		"eventName|startswith: create":                          true,
		"eventName|endswith: KEY":                               true,
		"eventName|contains: cess":                              true,
		"eventName|contains|all: [Create, Key]":                 true,
		"eventName|contains|all: [Create, User]":                false,
		"eventName: 'Create*Key'":                               true,
		"eventName: 'Create?ccess*'":                            true,
		"eventName: 'Create*User'":                              false,
		`resource|contains: 'Admin\*'`:                          true,
		`resource|contains: 'Adm\*'`:                            false,
		"eventName|cased: createaccesskey":                      false,
		"eventName|re: '^Create[A-Z]'":                          true,
		"eventName|re: '^create'":                               false,
		"eventName|re|i: '^create'":                             true,
		"sourceIPAddress|cidr: 10.0.0.0/8":                      true,
		"sourceIPAddress|cidr: [192.168.0.0/16, 172.16.0.0/12]": false,
		"errorCode|exists: true":                                true,
		"vpcEndpointId|exists: true":                            false,
		"vpcEndpointId: null":                                   true,
		"bytes|gt: 4":                                           true,
		"bytes|lt: 5":                                           false,
		"bytes|gte: 5":                                          true,
		"bytes|lte: 5":                                          true,
		"bytes: 5":                                              true,
		"interactive: true":                                     true,
		"scopes: b":                                             true,
		"scopes|contains: c":                                    false,
		"awsRegion: eu-west-1":                                  true,
		"userIdentity.userName: bot":                            true,
		"userAgent|neq: aws-cli":                                false,
		"{eventName: CreateAccessKey, errorCode: AccessDenied}": true,
		"{eventName: CreateAccessKey, errorCode: ''}":           false,
		"[{eventName: x}, {errorCode: AccessDenied}]":           true,
	} {
		if got := hits(t, head+"  s:\n    "+search+"\n  condition: s\n", a) == 1; got != want {
			t.Errorf("%s: %v", search, got)
		}
	}
}

func TestConditions(t *testing.T) {
	a := events.Activity{Action: "iam:CreateUser"}
	for condition, want := range map[string]bool{
		"yes_1": true, "no_1": false, "not no_1": true, "yes_1 and no_1": false, "yes_1 or no_1": true,
		"yes_1 and not no_1": true, "no_1 and no_1 or yes_1": true, "no_1 and (no_1 or yes_1)": false,
		"1 of yes_*": true, "all of yes_*": true, "1 of no_*": false, "1 of them": true, "all of them": false,
		"not 1 of no_*": true, "yes_1 AND NOT all of them": true,
	} {
		text := head + "  yes_1: {eventName: CreateUser}\n  yes_2: {eventSource: iam.amazonaws.com}\n  no_1: {eventName: x}\n  condition: " + condition + "\n"
		if got := hits(t, text, a) == 1; got != want {
			t.Errorf("%s: %v", condition, got)
		}
	}
}

func base(name, event string) string {
	return "title: " + name + "\nname: " + name + "\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: {eventName: " + event + "}, condition: s}\n---\n"
}

func TestCorrelations(t *testing.T) {
	act := func(names ...string) (as []events.Activity) {
		for i, n := range names {
			as = append(as, events.Activity{Action: "iam:" + n, Resource: fmt.Sprint(i)})
		}
		return as
	}
	for _, c := range []struct {
		correlation string
		as          []events.Activity
		want        int
	}{
		{"{type: event_count, rules: [a], group-by: [userIdentity.arn], timespan: 5m, condition: {gte: 3}}", act("A", "A", "A"), 1},
		{"{type: event_count, rules: [a], group-by: [userIdentity.arn], timespan: 5m, condition: {gt: 3}}", act("A", "A", "A"), 0},
		{"{type: event_count, rules: [a], timespan: 1s, condition: {gte: 3}}", act("A", "A", "A"), 0},
		{"{type: event_count, rules: [a, b], timespan: 1d, condition: {gte: 3}}", act("A", "B", "A"), 1},
		{"{type: value_count, rules: [a], timespan: 5m, condition: {gte: 3, field: resource}}", act("A", "A", "A"), 1},
		{"{type: value_count, rules: [a], timespan: 5m, condition: {gte: 2, field: eventName}}", act("A", "A", "A"), 0},
		{"{type: temporal, rules: [a, b], timespan: 5m}", act("B", "A"), 1},
		{"{type: temporal_ordered, rules: [a, b], timespan: 5m}", act("B", "A"), 0},
		{"{type: temporal_ordered, rules: [a, b], timespan: 5m}", act("A", "B"), 1},
		{"{type: temporal_ordered, rules: [a, b], timespan: 5m, generate: true}", act("A", "B"), 3},
	} {
		// Without generate the rules themselves are silent; b is one of its own when unused.
		text := base("a", "A") + base("b", "B") + "title: C\ncorrelation: " + c.correlation + "\n"
		rs, problems := compile(t, text)
		if len(problems) > 0 {
			t.Fatalf("%s: %v", c.correlation, problems)
		}
		if got := hits(t, text, c.as...); got != c.want {
			t.Errorf("%s: %d alerts of %d rules, want %d", c.correlation, got, len(rs), c.want)
		}
	}
}

func TestWhatIsNotSupportedIsSaid(t *testing.T) {
	for text, want := range map[string]string{
		head + "  s: {requestParameters.x: 1}\n  condition: s\n":                                                                      `f.yml:7: s: field "requestParameters.x" has no counterpart`,
		head + "  s: {eventName|base64: x}\n  condition: s\n":                                                                         `modifier "base64" is not supported`,
		head + "  s: [word, other]\n  condition: s\n":                                                                                 `keywords without a field`,
		head + "  s: {eventName: x}\n  condition: s | count() > 5\n":                                                                  `f.yml:8: condition: aggregations after |`,
		head + "  s: {eventName: x}\n  condition: t\n":                                                                                `there is no search "t"`,
		head + "  s: {eventName: x}\n  condition: (s\n":                                                                               `not closed`,
		head + "  s: {eventName: x}\n  condition: s s\n":                                                                              `left over`,
		head + "  s: {eventName: x}\n  condition: 1 of z*\n":                                                                          `no search is called`,
		head + "  s: {eventName: x}\n  condition: s and\n":                                                                            `ends too early`,
		head + "  s: {eventName: x}\n  timeframe: 5m\n  condition: s\n":                                                               `use a correlation`,
		head + "  s: {eventName|re: '('}\n  condition: s\n":                                                                           `RE2`,
		head + "  s: {sourceIPAddress|cidr: here}\n  condition: s\n":                                                                  `no network`,
		head + "  s: {eventName|gt: 5}\n  condition: s\n":                                                                             `field of whole numbers`,
		"title: T\nlogsource: {product: windows}\ndetection: {s: {a: 1}, condition: s}\n":                                             `f.yml:2: logsource product "windows"`,
		"title: T\nlogsource: {product: aws}\n":                                                                                       `detection is missing`,
		"title: T\nfilter: {rules: [x]}\n":                                                                                            `filters are not supported`,
		base("a", "A") + "title: C\ncorrelation: {type: value_sum, rules: [a], timespan: 5m}\n":                                       `type "value_sum" is not supported`,
		base("a", "A") + "title: C\ncorrelation: {type: event_count, rules: [a], timespan: 5m, condition: {lt: 3}}\n":                 `"lt" is not supported`,
		base("a", "A") + "title: C\ncorrelation: {type: event_count, rules: [z], timespan: 5m, condition: {gte: 3}}\n":                `no rule "z"`,
		base("a", "A") + "title: C\ncorrelation: {type: event_count, rules: [a], timespan: soon, condition: {gte: 3}}\n":              `timespan "soon"`,
		base("a", "A") + "title: C\ncorrelation: {type: temporal, rules: [a], timespan: 5m}\n":                                        `needs 2 to 8 steps`,
		base("a", "A") + "title: C\ncorrelation: {type: event_count, rules: [a], timespan: 5m, aliases: {x: {a: b}}}\n":               `aliases are not supported`,
		base("a", "A") + "title: C\ncorrelation: {type: event_count, rules: [a], group-by: [x], timespan: 5m, condition: {gte: 3}}\n": `"x" cannot be grouped`,
		"a: [": `f.yml`,
	} {
		_, problems := compile(t, text)
		if len(problems) == 0 || !strings.Contains(problems[0].Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", text, problems, want)
		}
	}
}

func TestWhatARuleBecomes(t *testing.T) {
	rs, problems := compile(t, head+"  s: {eventName: CreateAccessKey}\n  condition: s\n")
	if len(problems) > 0 || len(rs) != 1 {
		t.Fatal(problems)
	}
	r := rs[0]
	if r.Severity != events.SeverityHigh || r.Origin != "sigma" || len(r.References) != 1 || r.References[0] != "T1098.001" || !strings.HasPrefix(r.Name(), "RULE:t-") {
		t.Errorf("%+v", r.Draft)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(head + "  s: {eventName|contains|all: ['a*', \"b\\\\?\"]}\n  condition: not (1 of them and s)\n"))
	f.Add([]byte(base("a", "A") + "title: C\ncorrelation: {type: temporal, rules: [a, a], timespan: 5m}\n"))
	f.Add([]byte("detection: [x]\n---\n- a\n"))
	c, err := rules.NewCompiler()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ws, problems := Read("f.yml", raw)
		if len(problems) > 0 {
			return
		}
		// What is read without a complaint must be sound CEL; limits may still refuse it.
		_, worse := c.Place("f.yml", ws)
		for _, p := range worse {
			if strings.Contains(p.Message, "Syntax error") || strings.Contains(p.Message, "no matching overload") || strings.Contains(p.Message, "there is no field") {
				t.Errorf("%v\n%q", p, raw)
			}
		}
	})
}
