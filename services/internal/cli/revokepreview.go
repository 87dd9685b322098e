package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/spf13/cobra"
)

// revokePreview is the answer to a preview, as far as it is shown.
type revokePreview struct {
	Handle      string   `json:"handle"`
	Descendants int64    `json:"descendants"`
	Identities  int      `json:"identities"`
	Tenants     []string `json:"tenants"`
	Owners      []string `json:"owners"`
	Features    []string `json:"features"`
	Tasks       []string `json:"tasks"`
	Guards      int      `json:"guards"`
	NeedConfirm bool     `json:"confirm_required"`
	Confirm     int64    `json:"confirm"` // what to send then
	Past        int      `json:"past_closures"`
	Truncated   bool     `json:"truncated"`
	Unsafe      string   `json:"unsafe,omitempty"`
	Secrets     []struct {
		Downstream string `json:"downstream"`
		Count      int64  `json:"count"`
		Ends       string `json:"ends"`
		Problem    string `json:"problem"` // why they cannot be ended
	} `json:"secrets"`
	Closure *struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
	} `json:"closure_ms"`
	Tree struct {
		Tenants []struct {
			Tenant      string `json:"tenant"`
			Credentials int64  `json:"credentials"`
			Hidden      bool   `json:"hidden"`
			Identities  []struct {
				Identity    string `json:"identity"`
				Owner       string `json:"owner"`
				Feature     string `json:"feature"`
				Credentials int64  `json:"credentials"`
				Tasks       []struct {
					Task        string    `json:"task"`
					Credentials int64     `json:"credentials"`
					Until       time.Time `json:"until"`
				} `json:"tasks"`
				More int `json:"more"`
			} `json:"identities"`
			More int `json:"more"`
		} `json:"tenants"`
		More int  `json:"more"`
		Cut  bool `json:"cut"`
	} `json:"tree"`
}

// preview asks what a revoke, or another mode, would end and shows it as the flags say.
func (a *api) preview(c *cobra.Command, o *options, f revokeFlags, mode events.Mode, arg string, body any) error {
	var raw json.RawMessage
	if err := a.call(c.Context(), http.MethodPost, a.ends.Revocation, "/v1/revocations/preview", nil, body, &raw); err != nil {
		return fmt.Errorf("preview: %w", err)
	}
	var p revokePreview
	if err := json.Unmarshal(raw, &p); err != nil {
		return fmt.Errorf("read preview: %w", err)
	}
	if f.svg != "" {
		if err := drawSVG(c.Context(), p.drawing(arg), f.svg); err != nil {
			return err
		}
	}
	switch {
	case f.dot:
		return p.drawing(arg).dot(c.OutOrStdout(), 0)
	case o.json:
		return printJSON(c.OutOrStdout(), raw)
	}
	printPreview(c.OutOrStdout(), arg, mode, p)
	return nil
}

func printPreview(w io.Writer, arg string, mode events.Mode, p revokePreview) {
	col := colours(w)
	fmt.Fprintf(w, "%s of %s (handle %s)\n", col.head("preview: "+string(mode)), clean(arg), p.Handle)
	fmt.Fprintf(w, "  %d live credentials of %d identities in %s\n", p.Descendants, p.Identities, clean(or(strings.Join(p.Tenants, ", "), "no tenant")))
	fmt.Fprintf(w, "  owners    %s\n  features  %s\n  tasks     %s\n", clean(or(strings.Join(p.Owners, ", "), "-")), clean(or(strings.Join(p.Features, ", "), "-")), clean(or(strings.Join(p.Tasks, ", "), "-")))
	when := "no data yet"
	if p.Closure != nil {
		when = fmt.Sprintf("p50 %s, p99 %s (of the last %d)", ms(p.Closure.P50), ms(p.Closure.P99), p.Past)
	}
	fmt.Fprintf(w, "  %d guards will answer; predicted time to closure: %s\n", p.Guards, when)
	printLongLived(w, mode, p)
	p.tree(arg).print(w, "  ")
	if p.Tree.Cut || p.Truncated {
		fmt.Fprintln(w, "  there are more credentials than were looked at: what is below the tenants is a lower bound")
	}
	confirm := "--confirm"
	if p.NeedConfirm {
		confirm = fmt.Sprintf("--confirm=%d", p.Confirm)
	}
	verb := "revoke " + arg
	switch mode {
	case events.ModeFreeze:
		verb += " --freeze"
	case events.ModeLift:
		verb = "lift " + arg
	}
	if p.Unsafe != "" {
		fmt.Fprintf(w, "%s: %s\n", col.bad("it would be refused now"), clean(strings.Join(strings.Fields(p.Unsafe), " ")))
	}
	fmt.Fprintf(w, "nothing was done; to do it: lanyard %s --reason TEXT %s\n", clean(verb), confirm)
}

// printLongLived says which long-lived secrets there are and how they are ended.
func printLongLived(w io.Writer, mode events.Mode, p revokePreview) {
	col := colours(w)
	for _, s := range p.Secrets {
		how := clean(s.Ends)
		switch {
		case mode != events.ModeRevoke:
			how = fmt.Sprintf("a %s does not touch them", mode)
		case s.Problem != "":
			how = col.bad(clean(s.Problem))
		}
		fmt.Fprintf(w, "  %s in %s: %s\n", count(s.Count, "long-lived secret"), clean(s.Downstream), how)
	}
}
