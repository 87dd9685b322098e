// Package demo plays Lanyard's main job on a running system: real attack records
// come in, three tenants' agents act on delegated credentials, detectors raise
// alerts, and one revoke ends a whole delegation subtree while its siblings go on.
// It uses what any product or responder would use: the HTTP APIs, the token
// endpoint, the guard library and the NATS feed. Only cmd/lanyard imports it, and
// the tests that run it against separate processes.
package demo

import (
	"context"
	"crypto/ed25519"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
)

//go:embed catalogue.json
var catalogueJSON []byte

// Tenants of the demo. The person's orchestrator lives in the first.
var Tenants = []string{"acme", "globex", "initech"}

// System is the running Lanyard that the demo acts on.
type System struct {
	Issuer, Intake, Alerts, Revocation, LocalOIDC string // base URLs
	LocalSecret                                   string // client secret of the local OIDC issuer
	Operator                                      func(ctx context.Context) (string, error)
	// Guard is the configuration of a guard at point in tenant, with its feed.
	Guard   func(ctx context.Context, tenant, point, audience string) (guard.Config, error)
	FeedKey ed25519.PublicKey // of the kill feed: all that is needed to check receipts
	HTTP    *http.Client
}

// Options of Run.
type Options struct {
	Agents   int           // delegated sub-agents, default 40
	Siblings int           // unrelated agents, default 12
	Records  fs.FS         // *.json or *.json.gz files of CloudTrail records
	Interval time.Duration // between the calls of one agent, default 25 ms
	// Suffix of the demo's identities, so that it can be played again on one system.
	Suffix string
	// At is called at "ingest", "launch" and "revoke", each in the middle of it; tests
	// make trouble there. Optional.
	At func(phase string)
	// Patience is how long a call is repeated while a service is not there. Default 0.
	Patience time.Duration
	// CloseWithin is how long Run waits for closure, default 30 s.
	CloseWithin time.Duration
}

// Result is what `lanyard demo --json` prints.
type Result struct {
	EventsIngested    int            `json:"events_ingested"`
	EventsRefused     int            `json:"events_refused"`
	Identities        int            `json:"identities"`
	Tenants           int            `json:"tenants"`
	CredentialsIssued int            `json:"credentials_issued"`
	Delegations       int            `json:"delegations"`
	Alerts            map[string]int `json:"alerts"`            // by detector
	AlertsOnRecords   map[string]int `json:"alerts_on_records"` // of these, on the real records
	Revocation        Revocation     `json:"revocation"`
	Calls             Calls          `json:"calls"`
	Trace             TraceResult    `json:"trace"`
	Seconds           float64        `json:"seconds"`

	// Credentials are the ids of every credential that was handed out.
	Credentials []string `json:"-"`
}

// Revocation is what became of the one revoke.
type Revocation struct {
	ID                   string  `json:"id"`
	Descendants          int64   `json:"descendants"`
	ReceiptsExpected     int     `json:"receipts_expected"`
	ReceiptsEnforced     int     `json:"receipts_enforced"`
	ReceiptsVerified     int     `json:"receipts_verified"` // offline, with the kill feed's public key alone
	DeniedInLogs         int     `json:"tenants_whose_log_names_it"`
	Closed               bool    `json:"closed"`
	AcceptToLastRefusal  Latency `json:"accept_to_last_refusal_ms"`
	AcceptToReceipt      Latency `json:"accept_to_receipt_ms"`
	AcceptToClosedMillis float64 `json:"accept_to_closed_ms"`
}

// Latency in milliseconds over all agents or guards.
type Latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Calls counts the agents' calls to the guarded services.
type Calls struct {
	SubtreeAllowedBefore       int64 `json:"subtree_allowed_before"`
	SubtreeAllowedAfterClosure int64 `json:"subtree_allowed_after_closure"`
	SubtreeDenied              int64 `json:"subtree_denied"`
	SiblingsAllowed            int64 `json:"siblings_allowed"`
	SiblingsDenied             int64 `json:"siblings_denied"`
	TokensRenewedAfterRevoke   int64 `json:"tokens_renewed_after_revoke"`
}

// TraceResult is what the trace of one leaked token found.
type TraceResult struct {
	TokenSHA256 string `json:"token_sha256"`
	Identity    string `json:"identity"`
	Owner       string `json:"owner"`
	Events      int    `json:"events"`
}

// Reporter shows progress. Step begins a chapter, Line is one line of it.
type Reporter interface {
	Step(title string)
	Line(format string, args ...any)
	Good(format string, args ...any)
	Bad(format string, args ...any)
}

// run is one demo under way.
type run struct {
	sys System
	o   Options
	rep Reporter
	res Result

	minted sync.Mutex // of res.Credentials

	person    string
	resources []*resource
	agents    []*agent // orchestrator's sub-agents
	siblings  []*agent
	root      string // the orchestrator's token
	leaked    string // token of one sub-agent
}

// Run plays the demo. It returns what was measured also when something did not hold;
// the error then says what.
func Run(ctx context.Context, sys System, o Options, rep Reporter) (Result, error) {
	start := time.Now()
	if o.Agents == 0 {
		o.Agents = 40
	}
	if o.Siblings == 0 {
		o.Siblings = 12
	}
	if o.Interval == 0 {
		o.Interval = 25 * time.Millisecond
	}
	if o.At == nil {
		o.At = func(string) {}
	}
	if o.CloseWithin == 0 {
		o.CloseWithin = 30 * time.Second
	}
	r := &run{sys: sys, o: o, rep: rep, person: "ana@acme.example"}
	r.res.Alerts, r.res.AlertsOnRecords = map[string]int{}, map[string]int{}
	r.res.Tenants = len(Tenants)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer r.stopResources()
	for _, step := range []func(context.Context) error{
		r.declare, r.ingest, r.openResources, r.launch, r.hijack, r.collectAlerts, r.revoke, r.trace,
	} {
		if err := step(ctx); err != nil {
			r.res.Seconds = time.Since(start).Seconds()
			return r.res, err
		}
	}
	r.res.Seconds = time.Since(start).Seconds()
	return r.res, r.verdict()
}

// verdict is nil when the demo shows what it promises.
func (r *run) verdict() error {
	switch c, v := r.res.Calls, r.res.Revocation; {
	case !v.Closed:
		return fmt.Errorf("revocation %s is not closed: %d of %d receipts", v.ID, v.ReceiptsEnforced, v.ReceiptsExpected)
	case c.SubtreeAllowedAfterClosure > 0:
		return fmt.Errorf("%d calls of the revoked subtree were allowed after closure", c.SubtreeAllowedAfterClosure)
	case v.ReceiptsVerified < v.ReceiptsExpected:
		return fmt.Errorf("%d of %d receipts hold offline", v.ReceiptsVerified, v.ReceiptsExpected)
	case v.DeniedInLogs < len(Tenants):
		return fmt.Errorf("the revocation is named in the log of %d of %d tenants", v.DeniedInLogs, len(Tenants))
	case c.SiblingsDenied > 0:
		return fmt.Errorf("%d calls of unrelated siblings were denied", c.SiblingsDenied)
	}
	return nil
}

// declaration is one entry of the catalogue.
type declaration struct {
	Tenant string `json:"tenant"`
	events.Registration
}

// declare registers the identities: those of the real records from the catalogue
// file, and the demo's agents.
func (r *run) declare(ctx context.Context) error {
	r.rep.Step("Identities: every one has an owner, a feature, a purpose and a kill switch")
	var list []declaration
	if err := json.Unmarshal(catalogueJSON, &list); err != nil {
		return fmt.Errorf("read catalogue: %w", err)
	}
	list = append(list, r.fleet()...)
	for i, to := range Tenants[1:] {
		body := map[string]any{"tenant": Tenants[0], "to": to, "scopes": []string{"orders.read", "orders.write"}, "max_depth": 3}
		if err := r.call(ctx, http.MethodPost, r.sys.Issuer, "/v1/trusts", nil, body, nil); err != nil {
			return fmt.Errorf("declare trust %d: %w", i, err)
		}
	}
	if err := parallel(ctx, 8, len(list), func(ctx context.Context, i int) error {
		if err := r.call(ctx, http.MethodPost, r.sys.Issuer, "/v1/identities", nil, list[i], nil); err != nil {
			return fmt.Errorf("declare %s: %w", list[i].Identity, err)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, t := range Tenants {
		var all struct {
			Identities []json.RawMessage `json:"identities"`
		}
		if err := r.call(ctx, http.MethodGet, r.sys.Issuer, "/v1/identities", tenantQuery(t), nil, &all); err != nil {
			return fmt.Errorf("list identities: %w", err)
		}
		r.res.Identities += len(all.Identities)
	}
	r.rep.Good("%d identities in %d tenants; trust records %s -> %s", r.res.Identities, len(Tenants), Tenants[0], Tenants[1:])
	return nil
}

// fleet is the demo's agents.
func (r *run) fleet() []declaration {
	reg := func(tenant, id, feature, purpose string, scopes []string, tools map[string][]string) declaration {
		return declaration{tenant, events.Registration{Identity: id, Kind: events.KindAgent, Owner: r.person, Feature: feature,
			Purpose: purpose, KillSwitch: "identity", Scopes: scopes, Audiences: audiences(), Tools: tools,
			Attestation: []events.Attestation{{Issuer: r.sys.LocalOIDC, Subject: "demo/" + tenant + "/" + id}}}}
	}
	scopes := []string{"orders.read", "orders.write"}
	list := []declaration{
		reg(Tenants[0], "orchestrator"+r.o.Suffix, "order-assistant", "plan and delegate order processing", scopes, nil),
		reg(Tenants[0], "watch-orchestrator"+r.o.Suffix, "stock-watch", "plan stock checks", scopes, nil),
	}
	for i := range r.o.Agents {
		t := Tenants[i%len(Tenants)]
		list = append(list, reg(t, fmt.Sprintf("order-agent-%02d%s", i, r.o.Suffix), "order-assistant", "process orders for the orchestrator", scopes,
			map[string][]string{"process-orders": {"orders.read", "orders.update"}}))
	}
	for i := range r.o.Siblings {
		t := Tenants[i%len(Tenants)]
		list = append(list, reg(t, fmt.Sprintf("stock-agent-%02d%s", i, r.o.Suffix), "stock-watch", "check stock levels", scopes, nil))
	}
	return list
}

func audience(tenant string) string { return "https://orders." + tenant + ".example" }

func audiences() []string {
	out := make([]string, len(Tenants))
	for i, t := range Tenants {
		out[i] = audience(t)
	}
	return out
}

func tenantQuery(tenant string) url.Values { return url.Values{"tenant": {tenant}} }
