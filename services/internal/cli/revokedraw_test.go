package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
)

func TestDotLabel(t *testing.T) {
	for in, want := range map[string]string{
		`plain`:                   `"plain"`,
		`a "b"`:                   `"a \"b\""`,
		`x"]; evil [label="y`:     `"x\"]; evil [label=\"y"`,
		`ends in \`:               `"ends in \\"`,
		`\N \G \l`:                `"\\N \\G \\l"`,
		`\"`:                      `"\\\""`,
		`<b>bold</b>`:             `"<b>bold</b>"`,
		`&lt; & &amp;`:            `"&amp;lt; &amp; &amp;amp;"`,
		"two\nlines\x00\x1b[31mx": `"two?lines??[31mx"`,
		"right\u202eleft":         `"right?left"`,
	} {
		if got := dotLabel([]string{in}); got != want {
			t.Errorf("label of %q is %s, want %s", in, got, want)
		}
	}
	if got, want := dotLabel([]string{"a", "b"}), `"a\nb"`; got != want {
		t.Errorf("label of two lines is %s, want %s", got, want)
	}
}

func TestDot(t *testing.T) {
	b := branch{name: "root", what: "tenants", below: []branch{
		{name: "acme", what: "identities", more: 2, below: []branch{{name: `b"t`, about: []string{"owner ana"}}}},
		{name: "globex", about: []string{"1 live credential"}},
	}}
	for _, c := range []struct {
		most int
		want []string
	}{
		{0, []string{`n0 [label="root"];`, `n1 [label="acme\nand 2 more identities"];`, `n0 -> n1;`, `n2 [label="globex\n1 live credential"];`, `n0 -> n2;`, `n3 [label="b\"t\nowner ana"];`, `n1 -> n3;`}},
		{3, []string{`n0 [label="root"];`, `n1 [label="acme\nand 3 more identities"];`, `n0 -> n1;`, `n2 [label="globex\n1 live credential"];`, `n0 -> n2;`}},
		{2, []string{`n0 [label="root\nand 1 more tenants"];`, `n1 [label="acme\nand 3 more identities"];`, `n0 -> n1;`}},
	} {
		var out strings.Builder
		if err := b.dot(&out, c.most); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		got := strings.Join(lines[3:len(lines)-1], "\n")
		if want := "  " + strings.Join(c.want, "\n  "); got != want || lines[0] != "digraph preview {" || lines[len(lines)-1] != "}" {
			t.Errorf("at most %d nodes:\n%s\nwant\n%s", c.most, out.String(), want)
		}
	}
}

func TestTreeInTerminal(t *testing.T) {
	b := branch{what: "tenants", below: []branch{{name: "acme", about: []string{"x"}, what: "identities", more: 1}, {name: "globex\x1b", about: []string{"y", "z"}}}}
	for i := range treeWidth + 3 {
		b.below[1].below = append(b.below[1].below, branch{name: fmt.Sprint("bot", i)})
	}
	b.below[1].what = "identities"
	var out strings.Builder
	b.print(&out, "")
	got := out.String()
	for _, want := range []string{"├─ acme  x\n│  └─ ... 1 more identities\n└─ globex?  y, z\n   ├─ bot0  \n", "   └─ ... 3 more identities\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the tree is\n%s\nwithout\n%s", got, want)
		}
	}
	if n := strings.Count(got, "\n"); n != 3+treeWidth+1 {
		t.Errorf("%d lines:\n%s", n, got)
	}
}

func TestPreviewOfSecrets(t *testing.T) {
	var p revokePreview
	if err := json.Unmarshal([]byte(`{"handle":"h","descendants":1,"closure_ms":{"p50":3,"p99":40},"past_closures":7,
		"secrets":[{"downstream":"pg","count":2,"ends":"NOLOGIN"},{"downstream":"old","count":1,"problem":"not configured"}],
		"tree":{"tenants":[{"tenant":"globex","credentials":1,"hidden":true,"identities":[],"more":1}],"more":0,"cut":true}}`), &p); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[events.Mode][]string{
		events.ModeRevoke: {"2 long-lived secrets in pg: NOLOGIN\n", "1 long-lived secret in old: not configured\n", "p50 3.00 ms, p99 40 ms (of the last 7)", "a lower bound",
			"└─ globex  1 live credential, not yours to see\n     └─ ... 1 more identities\n"},
		events.ModeFreeze: {"2 long-lived secrets in pg: a freeze does not touch them\n"},
	} {
		var out strings.Builder
		printPreview(&out, "identity:acme/x", mode, p)
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: the preview is\n%s\nwithout %q", mode, out.String(), w)
			}
		}
	}
	var out strings.Builder
	if err := p.drawing("identity:acme/x").dot(&out, drawMost); err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{`n0 [label="identity:acme/x\n1 live credential\nbelow the tenants a lower bound"];`, `n1 [label="2 long-lived secrets in pg\nNOLOGIN"];`, `n0 -> n2;`} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("the graph is\n%s\nwithout %s", out.String(), w)
		}
	}
}
