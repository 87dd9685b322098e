package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/spf13/cobra"
)

func hashOf(raw string) string { return token.HashText(raw) }

// traceAnswer is the answer to a trace.
type traceAnswer struct {
	Subject struct {
		Kind        string `json:"kind"`
		ID          string `json:"id"`
		Handle      string `json:"handle,omitempty"`
		TokenSHA256 string `json:"token_sha256,omitempty"`
		KeyID       string `json:"key_id,omitempty"`
		traceStep
	} `json:"subject"`
	Lineage           []traceNode  `json:"lineage"`
	Chain             []traceStep  `json:"chain"`
	Timeline          []traceEvent `json:"timeline"`
	Descendants       []traceStep  `json:"descendants"`
	Hidden            int          `json:"hidden"`
	HiddenDescendants int          `json:"hidden_descendants"`
	Since             time.Time    `json:"since"`
	Read              int          `json:"read"`
	Truncated         bool         `json:"truncated"`
	Cut               string       `json:"cut,omitempty"`
}

// traceStep is one credential.
type traceStep struct {
	Credential string        `json:"credential,omitempty"`
	Tenant     string        `json:"tenant,omitempty"`
	Identity   string        `json:"identity,omitempty"`
	Owner      string        `json:"owner,omitempty"`
	Feature    string        `json:"feature,omitempty"`
	Task       string        `json:"task,omitempty"`
	Purpose    string        `json:"purpose,omitempty"`
	Parent     string        `json:"parent,omitempty"`
	Delegation string        `json:"delegation,omitempty"`
	Policy     string        `json:"policy,omitempty"`
	Reasons    []string      `json:"policy_reasons,omitempty"`
	Exceptions []string      `json:"exceptions,omitempty"`
	Attested   *traceAttests `json:"attested,omitempty"`
	LaunchedBy *traceAttests `json:"launched_by,omitempty"`
	Audience   []string      `json:"audience,omitempty"`
	Scope      []string      `json:"scope,omitempty"`
	IssuedAt   time.Time     `json:"issued_at,omitzero"`
	ExpiresAt  time.Time     `json:"expires_at,omitzero"`
	Calls      int           `json:"calls,omitzero"`
	Denied     int           `json:"denied,omitzero"`
	LastCall   time.Time     `json:"last_call,omitzero"`
	Revocation string        `json:"revocation,omitempty"`
	Hidden     bool          `json:"hidden,omitzero"`
}

type traceAttests struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

type traceNode struct {
	Kind   string `json:"kind"`
	Tenant string `json:"tenant"`
	ID     string `json:"id"`
	Handle string `json:"handle"`
}

type traceEvent struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Tenant  string    `json:"tenant,omitempty"`
	Summary string    `json:"summary"`
	Event   string    `json:"event,omitempty"`
}

// traceFlags are the command's.
type traceFlags struct {
	timeline bool
	since    string
	limit    int
}

func traceCommand(o *options) *cobra.Command {
	var f traceFlags
	c := &cobra.Command{
		Use: "trace ID|SHA256|FILE|KIND:TENANT/ID", Short: "Whose credential is it, and what did it do", Args: exactArgs(1, "an id, a token's SHA-256 or a file with the token"),
		Long: `Shows the lineage of a credential up to the person who answers for it, and every
call, exchange, derived credential, denial and revocation, from the log. The
credential is named by its id (jti), by the SHA-256 of the token's text, or by a
file that holds the token; the token itself is never sent.

A task, delegation, identity, revocation, managed secret, alert or event is traced
the same way, by its id. When the id alone could be several things, say which, as in
identity:acme/report-bot or revocation:1f0c. Kinds are those of "lanyard revoke",
revocation, secret and event.

Of other tenants than yours nothing is shown but that something is there.`,
		Example: `  lanyard trace 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  lanyard trace token.jwt --timeline
  lanyard trace task:acme/nightly-7 --since 36h
  lanyard trace identity:acme/report-bot --json`,
		RunE: func(c *cobra.Command, args []string) error { return runTrace(c, o, f, args[0]) },
	}
	c.Flags().BoolVar(&f.timeline, "timeline", false, "show everything in order of time instead of a tree")
	c.Flags().StringVar(&f.since, "since", "", "read from this time on (RFC 3339), or from this long ago, such as 36h")
	c.Flags().IntVar(&f.limit, "limit", 0, "show at most so many lines and descendants (up to 2000)")
	return c
}

func runTrace(c *cobra.Command, o *options, f traceFlags, arg string) error {
	a, err := openAPI(o)
	if err != nil {
		return err
	}
	id, query := traceTarget(c, arg)
	if f.since != "" {
		query.Set("since", f.since)
	}
	if f.limit != 0 {
		query.Set("limit", strconv.Itoa(f.limit))
	}
	path := "/v1/trace/" + url.PathEscape(id)
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var t traceAnswer
	if err := a.call(c.Context(), http.MethodGet, a.ends.Revocation, path, nil, nil, &t); err != nil {
		var e *apiError
		if errors.As(err, &e) && e.Status == http.StatusNotFound {
			return notTrue("trace: nothing in the log is called %q", arg)
		}
		return fmt.Errorf("trace: %w", err)
	}
	w := c.OutOrStdout()
	switch {
	case o.json:
		return printJSON(w, t)
	case f.timeline:
		printTimeline(w, t)
	default:
		printTrace(w, t)
	}
	printTraceEnd(w, t)
	return nil
}

// traceTarget reads what is to be traced: a file with a token becomes the token's hash.
func traceTarget(c *cobra.Command, arg string) (id string, query url.Values) {
	query = url.Values{}
	kind, rest, ok := strings.Cut(arg, ":")
	if ok && (slices.Contains(lineage.Kinds, lineage.Kind(kind)) || slices.Contains([]string{"revocation", "secret", "event"}, kind)) {
		query.Set("kind", kind)
		switch kind {
		case "domain", "key", "tenant":
			return rest, query
		}
		if tenant, id, ok := strings.Cut(rest, "/"); ok && tenant != "" && id != "" {
			query.Set("tenant", tenant)
			return id, query
		}
		return rest, query
	}
	if raw, err := argToken(c, arg); err == nil && strings.Count(raw, ".") == 2 {
		return hashOf(raw), query
	}
	return arg, query
}

// printTrace shows a trace as a tree.
func printTrace(w io.Writer, t traceAnswer) {
	col := colours(w)
	s := t.Subject
	fmt.Fprintf(w, "%s\n", col.head(clean(s.Kind+" "+strings.TrimPrefix(s.Tenant+"/"+s.ID, "/"))))
	for _, row := range [][2]string{{"identity", s.Identity}, {"owner", s.Owner}, {"feature", s.Feature}, {"purpose", s.Purpose}, {"task", s.Task},
		{"handle", s.Handle}, {"sha256", s.TokenSHA256}, {"signed by", s.KeyID}, {"scope", strings.Join(s.Scope, " ")},
		{"audience", strings.Join(s.Audience, " ")}, {"policy", s.Policy}, {"decided by", strings.Join(s.Reasons, ", ")},
		{"exceptions", strings.Join(s.Exceptions, ", ")}, {"ended by", s.Revocation}} {
		if row[1] != "" {
			fmt.Fprintf(w, "  %-12s %s\n", row[0], clean(row[1]))
		}
	}
	fmt.Fprintln(w, col.head("lineage, root first"))
	for i, n := range t.Lineage {
		name := "of another tenant"
		if n.ID != "" {
			name = strings.TrimPrefix(n.Tenant+"/"+n.ID, "/")
		}
		fmt.Fprintf(w, "  %s%s %s %s\n", strings.Repeat(" ", min(i, 12)), clean(cmp.Or(n.Kind, "handle")), clean(name), col.dim(n.Handle))
	}
	printTree(w, t)
	printRevocations(w, t)
	fmt.Fprintf(w, "%s: %s\n", col.head("on the log"), counts(t.Timeline))
}

// printTree shows who proved what to get the first credential, and what came of it.
func printTree(w io.Writer, t traceAnswer) {
	col := colours(w)
	fmt.Fprintln(w, col.head("credentials"))
	depth := 0
	line := func(depth int, s traceStep, mark string) {
		indent := strings.Repeat("   ", min(depth, 16))
		if s.Hidden {
			fmt.Fprintf(w, "  %s└─ a credential of another tenant\n", indent)
			return
		}
		if s.Attested != nil && s.Parent == "" {
			who := "proven by " + s.Attested.Issuer + " as " + s.Attested.Subject
			if s.LaunchedBy != nil {
				who += ", launched by " + s.LaunchedBy.Subject
			}
			fmt.Fprintf(w, "  %s%s\n", indent, clean(who))
		}
		fmt.Fprintf(w, "  %s└─ %s%s %s\n", indent, clean(s.Credential), mark, col.dim(clean(about(s))))
	}
	for _, s := range t.Chain {
		line(depth, s, "")
		depth++
	}
	children := map[string][]traceStep{}
	shown := map[string]bool{}
	if t.Subject.Credential != "" && t.Subject.Kind == "credential" {
		line(depth, t.Subject.traceStep, " <- this")
		depth++
		shown[t.Subject.Credential] = true
	}
	for _, d := range t.Descendants {
		shown[d.Credential] = true
	}
	for _, d := range t.Descendants {
		parent := d.Parent
		if !shown[parent] || parent == d.Credential {
			parent = ""
		}
		children[parent] = append(children[parent], d)
	}
	var walk func(parent string, depth int)
	walk = func(parent string, depth int) {
		next := children[parent]
		delete(children, parent) // what is shown is not shown again
		for _, d := range next {
			line(depth, d, "")
			walk(d.Credential, depth+1)
		}
	}
	if t.Subject.Kind == "credential" {
		walk(t.Subject.Credential, depth)
	}
	walk("", depth)
	if t.HiddenDescendants > 0 {
		fmt.Fprintf(w, "  %s└─ %d credentials of other tenants\n", strings.Repeat("   ", min(depth, 16)), t.HiddenDescendants)
	}
}

// about is one credential in a line.
func about(s traceStep) string {
	text := s.Tenant + "/" + s.Identity
	if s.Owner != "" {
		text += " of " + s.Owner
	}
	if s.Task != "" {
		text += ", task " + s.Task
	}
	if len(s.Scope) > 0 {
		text += ", " + strings.Join(s.Scope, " ")
	}
	if s.Calls > 0 {
		text += fmt.Sprintf(", %d calls, last %s", s.Calls, clock(s.LastCall))
	}
	if s.Denied > 0 {
		text += fmt.Sprintf(", %d denied", s.Denied)
	}
	if s.Revocation != "" {
		return text + ", ended by " + s.Revocation
	}
	return text + ", until " + clock(s.ExpiresAt)
}

// printRevocations shows what ended the subject, or parts of it.
func printRevocations(w io.Writer, t traceAnswer) {
	printed := false
	for _, e := range t.Timeline {
		if strings.HasPrefix(e.Type, "dev.lanyard.revocation.") && !strings.Contains(e.Type, ".enforced.") {
			if !printed {
				fmt.Fprintln(w, colours(w).head("revocations"))
				printed = true
			}
			printMoment(w, e)
		}
	}
}

func shortType(t string) string {
	return strings.TrimSuffix(strings.TrimPrefix(t, "dev.lanyard."), ".v1")
}

func printMoment(w io.Writer, e traceEvent) {
	fmt.Fprintf(w, "  %s  %-24s %s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), clean(shortType(e.Type)), clean(e.Summary))
}

func printTimeline(w io.Writer, t traceAnswer) {
	fmt.Fprintln(w, colours(w).head(clean("timeline of "+t.Subject.Kind+" "+strings.TrimPrefix(t.Subject.Tenant+"/"+t.Subject.ID, "/"))))
	for _, e := range t.Timeline {
		printMoment(w, e)
	}
}

// printTraceEnd says what is not shown.
func printTraceEnd(w io.Writer, t traceAnswer) {
	col := colours(w)
	if t.Hidden > 0 {
		fmt.Fprintf(w, "%s\n", col.dim(fmt.Sprintf("%d records of other tenants are not shown", t.Hidden)))
	}
	fmt.Fprintf(w, "%s\n", col.dim(fmt.Sprintf("%d records read, since %s", t.Read, clock(t.Since))))
	if t.Truncated {
		fmt.Fprintf(w, "%s\n", col.warn("not everything: "+clean(t.Cut)))
	}
}

// counts sums a timeline up.
func counts(timeline []traceEvent) string {
	n := map[string]int{}
	var types []string
	for _, e := range timeline {
		k := shortType(e.Type)
		if n[k]++; n[k] == 1 {
			types = append(types, k)
		}
	}
	slices.Sort(types)
	for i, k := range types {
		types[i] = fmt.Sprintf("%d %s", n[k], k)
	}
	if len(types) == 0 {
		return "nothing"
	}
	return strings.Join(types, ", ") + " (--timeline shows them)"
}
