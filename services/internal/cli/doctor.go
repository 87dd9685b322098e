package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/spf13/cobra"
)

// finding is the result of one check.
type finding struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"`
}

// doctor runs checks one after the other.
type doctor struct {
	c        *cobra.Command
	o        *options
	ends     endpoints
	findings []finding
}

func doctorCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check a running Lanyard: can it keep its promises now", Args: exactArgs(0, "no arguments"),
		Long:    "Checks files, services, the bus, the guard's freshness, projections, clocks and the\noperator's access. Exits 3 when a check does not hold.",
		Example: "  lanyard doctor",
		RunE: func(c *cobra.Command, _ []string) error {
			ends, err := readEndpoints(o.data)
			if err != nil {
				return err
			}
			d := &doctor{c: c, o: o, ends: ends}
			for _, check := range []func(context.Context){d.files, d.ready, d.access, d.guard, d.busChecks, d.views} {
				ctx, cancel := withDeadline(c, 15*time.Second)
				check(ctx)
				cancel()
			}
			return d.report()
		},
	}
}

func (d *doctor) add(check string, err error, found, do string) {
	f := finding{Check: check, OK: err == nil, Found: found}
	if err != nil {
		f.Found, f.Do = err.Error(), do
	}
	d.findings = append(d.findings, f)
}

func (d *doctor) report() error {
	w, col := d.c.OutOrStdout(), colours(d.c.OutOrStdout())
	bad := 0
	for _, f := range d.findings {
		if !f.OK {
			bad++
		}
	}
	if d.o.json {
		if err := printJSON(w, map[string]any{"ok": bad == 0, "findings": d.findings}); err != nil {
			return err
		}
	} else {
		for _, f := range d.findings {
			mark := col.good("ok ")
			if !f.OK {
				mark = col.bad("!! ")
			}
			fmt.Fprintf(w, "%s %-22s %s\n", mark, f.Check, clean(f.Found))
			if f.Do != "" {
				fmt.Fprintf(w, "    %-22s do: %s\n", "", f.Do)
			}
		}
	}
	if bad > 0 {
		return notTrue("%d of %d checks do not hold", bad, len(d.findings))
	}
	return nil
}

// files checks that secrets are private.
func (d *doctor) files(context.Context) {
	var err error
	n := 0
	for _, p := range []string{"operator.json", "endpoints.json", "keys/feed.jwk", "keys/lineage.key", "redis.password"} {
		st, serr := os.Stat(filepath.Join(d.o.data, p))
		if errors.Is(serr, os.ErrNotExist) {
			continue
		}
		n++
		if serr != nil {
			err = errors.Join(err, serr)
		} else if st.Mode().Perm()&0o077 != 0 {
			err = errors.Join(err, fmt.Errorf("%s has mode %04o", p, st.Mode().Perm()))
		}
	}
	d.add("private files", err, fmt.Sprintf("%d files, none readable by others", n), "chmod 600 the files named")
}

// get fetches a URL without credentials.
func (d *doctor) get(ctx context.Context, url string) (int, []byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, b, resp.Header, err
}

func (d *doctor) ready(ctx context.Context) {
	status, b, head, err := d.get(ctx, d.ends.Debug+"/readyz")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, b)
	}
	d.add("ready", err, d.ends.Debug+"/readyz answers 200", "look at the log of the process; is 'lanyard up' running?")
	if err != nil {
		return
	}
	var skew time.Duration
	if t, perr := http.ParseTime(head.Get("Date")); perr == nil {
		skew = time.Since(t).Round(time.Second)
	}
	if skew > 5*time.Second || skew < -5*time.Second {
		err = fmt.Errorf("this machine and the service are %s apart", skew)
	}
	d.add("clock", err, "within 5 s of the service's", "synchronise the clocks (NTP)")
}

func (d *doctor) access(ctx context.Context) {
	a, err := openAPI(d.o)
	if err == nil {
		_, err = a.tokens.Token(ctx)
	}
	d.add("operator", err, "the token endpoint serves the operator's credential", "check "+d.ends.Operator)
}

func (d *doctor) guard(ctx context.Context) {
	a, err := openAPI(d.o)
	if err != nil {
		return
	}
	var st struct {
		Fresh   bool   `json:"fresh"`
		Age     int64  `json:"age_ns"`
		Epoch   uint64 `json:"epoch"`
		Entries int    `json:"entries"`
		Problem string `json:"problem"`
	}
	err = a.call(ctx, http.MethodGet, d.ends.Guard, "/v1/status", nil, nil, &st)
	if err == nil && !st.Fresh {
		err = fmt.Errorf("not fresh, so it refuses everything: %s", or(st.Problem, "no heartbeat"))
	}
	d.add("guard", err, fmt.Sprintf("fresh: heartbeat %s old, epoch %d, %d entries", time.Duration(st.Age).Round(time.Millisecond), st.Epoch, st.Entries), "is revocation running and NATS reachable?")
	var p revokePreview
	body := map[string]any{"mode": "revoke", "target": map[string]string{"kind": "tenant", "tenant": operator.Tenant, "id": operator.Tenant}}
	if err = a.call(ctx, http.MethodPost, d.ends.Revocation, "/v1/revocations/preview", nil, body, &p); err == nil && p.Unsafe != "" {
		err = errors.New(p.Unsafe)
	}
	d.add("revocation", err, fmt.Sprintf("accepts revokes; %d guards will answer", p.Guards), "set sync_interval: always in the server's jetstream block, and let Lanyard read it (monitoring, or the system user)")
}

func (d *doctor) busChecks(ctx context.Context) {
	conn, err := connectBus(d.c, d.o)
	if err != nil {
		d.add("nats", err, "", "is the server running at "+d.ends.NATS+"?")
		return
	}
	defer func() { _ = conn.Close() }() // the command ends
	d.add("nats", nil, "connected as user operator to "+d.ends.NATS, "")
	for _, s := range []string{bus.StreamIn, bus.StreamLog, bus.StreamKill, bus.StreamAlert, bus.StreamReceipt, bus.StreamTimer, bus.StreamDead} {
		last, err := conn.LastSequence(ctx, s, ">")
		d.add("stream "+s, err, fmt.Sprintf("last sequence %d", last), "start Lanyard once; it makes the streams")
	}
	n, replayed := 0, 0
	for x, err := range conn.DeadLetters(ctx, 0) {
		if err != nil {
			d.add("dead letters", err, "", "see 'lanyard dead list'")
			return
		}
		n++
		if x.Replayed {
			replayed++
		}
	}
	d.add("dead letters", nil, fmt.Sprintf("%d, %d replayed; see 'lanyard dead list'", n, replayed), "")
}

func (d *doctor) views(ctx context.Context) {
	s, err := openState(d.c, d.o)
	if err != nil {
		d.add("redis", err, "", "decisions go on from the log; lists and previews do not")
		return
	}
	defer func() { _ = s.Close() }() // the command ends
	err = s.Client().Ping(ctx).Err()
	d.add("redis", err, "answers", "decisions go on from the log; lists and previews do not")
}
