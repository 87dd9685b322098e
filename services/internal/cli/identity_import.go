package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/cli/roster"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// imported is what became of a file.
type imported struct {
	File       string  `json:"file"`
	Rows       int     `json:"rows"`       // read
	Registered int     `json:"registered"` // new or changed; with --dry-run, those without fault
	Unchanged  int     `json:"unchanged"`  // were registered just so before
	Refused    int     `json:"refused"`
	Report     string  `json:"report,omitempty"` // file with the refused rows
	DryRun     bool    `json:"dry_run,omitempty"`
	Complete   bool    `json:"complete"` // every row of the file was decided
	Seconds    float64 `json:"seconds"`
}

// refusedRow is one line of the report.
type refusedRow struct {
	Row    int    `json:"row"`
	Line   int    `json:"line,omitempty"`
	Code   string `json:"code,omitempty"` // of the registry's answer; none: the row itself is wrong
	Reason string `json:"reason"`
	Record any    `json:"record,omitempty"`
}

func identityImport(o *options) *cobra.Command {
	var i importer
	c := &cobra.Command{
		Use: "import FILE|-", Short: "Register many identities from CSV or JSON lines", Args: exactArgs(1, "FILE or '-'"),
		Long: `Registers the identities of a file: CSV with a header, or one JSON object a line; gzip
or not. Columns are the members of a registration:

  tenant identity kind owner feature purpose kill_switch attestation scopes audiences
  aliases backend vendor granted_scopes consented_by data_reached vendor_managed unknowns
  tools keys ...

identity, kind, owner, feature, purpose and kill_switch are needed in every row, tenant
there or in --tenant. Lists are separated by spaces or ';' (data_reached and unknowns by
';' only), ways of attestation are written ISSUER=SUBJECT, and tools and keys as JSON.

A row is registered as a whole or not at all. Refused rows go to FILE.refused.jsonl with
their number and the reason, and the command exits 1. Running it again changes nothing for
rows that are registered just so; that is also how to go on after an interruption.`,
		Example: `  lanyard identity import identities.csv --dry-run
  lanyard identity import identities.csv.gz --tenant acme
  lanyard identity import apps.jsonl --json
  zcat apps.jsonl.gz | lanyard identity import - --refused apps.refused.jsonl`,
		RunE: func(c *cobra.Command, args []string) error { return i.run(c, o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&i.tenant, "tenant", "", "tenant of rows that name none")
	f.BoolVar(&i.dry, "dry-run", false, "check every row and register nothing; needs no running Lanyard")
	f.IntVar(&i.parallel, "parallel", 32, "how many rows are registered at a time, 1 to 256")
	f.StringVar(&i.refused, "refused", "", "where refused rows go (default: FILE.refused.jsonl)")
	return c
}

// importer is one run of the command.
type importer struct {
	tenant, refused string
	dry             bool
	parallel        int

	api    *api
	report *os.File
	mu     sync.Mutex // guards sum and report
	sum    imported
}

func (i *importer) run(c *cobra.Command, o *options, file string) error {
	if i.parallel < 1 || i.parallel > 256 {
		return usage("--parallel must be 1 to 256")
	}
	in, size, err := openImport(c, file)
	if err != nil {
		return err
	}
	defer in.Close()
	if !i.dry {
		if i.api, err = openAPI(o); err != nil {
			return err
		}
		i.api.keepOpen(i.parallel)
	}
	if i.refused == "" {
		i.refused = "stdin.refused.jsonl"
		if file != "-" {
			i.refused = file + ".refused.jsonl"
		}
	}
	i.sum = imported{File: file, DryRun: i.dry}
	began := time.Now()
	bar := newProgress(c.ErrOrStderr(), size, i.said)
	stopped := i.all(c.Context(), bar.reading(in))
	bar.done(stopped == nil)
	if i.report != nil {
		if err := i.report.Close(); err != nil {
			return fmt.Errorf("write report of refused rows: %w", err)
		}
	}
	i.sum.Complete, i.sum.Seconds = stopped == nil, time.Since(began).Round(time.Millisecond).Seconds()
	if err := i.print(c.OutOrStdout(), o.json); err != nil {
		return err
	}
	switch {
	case stopped != nil && i.dry:
		return fmt.Errorf("check %s: %w", file, stopped)
	case stopped != nil:
		return fmt.Errorf("import %s: %w; what is registered stays, run the command again to go on", file, stopped)
	case i.sum.Refused > 0:
		return fmt.Errorf("%d of %d rows refused; %s says why", i.sum.Refused, i.sum.Rows, i.sum.Report)
	}
	return nil
}

// openImport opens the file and finds out its size, 0 when nobody knows.
func openImport(c *cobra.Command, file string) (io.ReadCloser, int64, error) {
	if file == "-" {
		return io.NopCloser(c.InOrStdin()), 0, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, fmt.Errorf("read identities: %w", err)
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return f, 0, nil
	}
	return f, info.Size(), nil
}

// all decides every row. Its error says why it stopped before the end. Rows that were
// begun are ended even when ctx is over.
func (i *importer) all(ctx context.Context, in io.Reader) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	rows := make(chan roster.Row)
	var workers sync.WaitGroup
	for range i.parallel {
		workers.Go(func() {
			for row := range rows {
				if err := i.one(ctx, row); err != nil {
					stop(err)
				}
			}
		})
	}
	var failed error
feed:
	for row, err := range roster.Read(in, i.tenant) {
		if err != nil {
			failed = err
			break
		}
		if ctx.Err() != nil {
			break
		}
		select {
		case rows <- row:
		case <-ctx.Done():
			break feed
		}
	}
	close(rows)
	workers.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
		return errors.New("interrupted")
	} else if cause != nil {
		return cause
	}
	return failed
}

// one decides one row; an error means that no row can be decided now.
func (i *importer) one(ctx context.Context, row roster.Row) error {
	status, err := 0, row.Err
	if err == nil && !i.dry {
		status, err = i.register(ctx, row.Entry)
	}
	answer, answered := errors.AsType[*apiError](err)
	switch {
	case err == nil, row.Err != nil:
	case !answered, answer.Status == http.StatusUnauthorized, answer.Status == http.StatusForbidden && answer.Code != "wrong_tenant", passing(answer):
		return err // nothing that this row could mend
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sum.Rows++
	switch {
	case err == nil && status == http.StatusOK:
		i.sum.Unchanged++
	case err == nil:
		i.sum.Registered++
	default:
		i.sum.Refused++
		r := refusedRow{Row: row.Number, Line: row.Line, Reason: err.Error(), Record: row.Record}
		if answered {
			r.Code = answer.Code
		}
		return i.refuse(r)
	}
	return nil
}

func passing(e *apiError) bool { return e.Status >= 500 || e.Status == http.StatusTooManyRequests }

// register declares one identity, and again when the answer may be another in a moment.
// A declaration that was begun is waited for.
func (i *importer) register(ctx context.Context, d roster.Declaration) (status int, err error) {
	const tries = 6
	for n := range tries {
		each, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		var resp *http.Response
		if resp, err = i.api.send(each, http.MethodPost, i.api.ends.Issuer, "/v1/identities", nil, d, ""); err == nil {
			status = resp.StatusCode
			_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection is used again
			resp.Body.Close()
		}
		cancel()
		if answer, ok := errors.AsType[*apiError](err); err == nil || ok && !passing(answer) {
			return status, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(250 * time.Millisecond << n):
		}
	}
	return 0, err
}

// refuse writes one line of the report. The caller holds i.mu.
func (i *importer) refuse(r refusedRow) error {
	if i.report == nil {
		f, err := os.OpenFile(i.refused, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("write report of refused rows: %w", err)
		}
		i.report, i.sum.Report = f, i.refused
	}
	enc := json.NewEncoder(i.report)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write report of refused rows: %w", err)
	}
	return nil
}

// said is how far it is, for the progress bar.
func (i *importer) said() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return fmt.Sprintf("%d rows, %d refused", i.sum.Rows, i.sum.Refused)
}

func (i *importer) print(w io.Writer, asJSON bool) error {
	s := i.sum
	if asJSON {
		return printJSON(w, s)
	}
	if s.DryRun {
		_, err := fmt.Fprintf(w, "%d rows checked in %.1f s: %d without fault, %d refused; nothing was registered\n", s.Rows, s.Seconds, s.Registered, s.Refused)
		return err
	}
	_, err := fmt.Fprintf(w, "%d rows in %.1f s: %d registered, %d unchanged, %d refused\n", s.Rows, s.Seconds, s.Registered, s.Unchanged, s.Refused)
	return err
}

// keepOpen lets as many connections stay open as are used at a time.
func (a *api) keepOpen(n int) {
	t, ok := a.http.Transport.(*http.Transport)
	if !ok {
		t, ok = http.DefaultTransport.(*http.Transport)
	}
	if !ok {
		return
	}
	t = t.Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = n, n
	client := *a.http
	client.Transport = t
	a.http = &client
}

// progress is a bar on a terminal, nothing elsewhere.
type progress struct {
	all *mpb.Progress
	bar *mpb.Bar
}

// newProgress makes a bar of size bytes on w, 0 when nobody knows how many there are.
func newProgress(w io.Writer, size int64, said func() string) progress {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return progress{}
	}
	p := mpb.New(mpb.WithOutput(w), mpb.WithWidth(48))
	text := decor.Any(func(decor.Statistics) string { return "  " + said() })
	return progress{p, p.AddBar(size, mpb.AppendDecorators(decor.Percentage(), text))}
}

func (p progress) reading(in io.Reader) io.Reader {
	if p.bar == nil {
		return in
	}
	if r, err := p.bar.ProxyReader(in); err == nil {
		return r
	}
	return in
}

// done leaves the bar as it is and waits until it is drawn.
func (p progress) done(complete bool) {
	if p.bar == nil {
		return
	}
	if complete {
		p.bar.SetTotal(-1, true)
	}
	p.bar.Abort(false)
	p.all.Wait()
}
