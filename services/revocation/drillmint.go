package revocation

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-nhi/lanyard/services/revocation/internal/drill"
)

// drillScope is all that a canary may do; nothing asks for it.
const drillScope = "drill"

// errUnknownCanary: issuance does not know the canary, or its key.
var errUnknownCanary = errors.New("the canary is not registered")

// canarySigner is the key of the canary identities. It derives from the feed key, which
// every replica has and nobody else: an Ed25519 signature is the same each time and
// this one is never shown.
func canarySigner(feed token.Signer) (token.Signer, error) {
	sig, err := feed.Sign("lanyard-canary", struct {
		Use string `json:"use"`
	}{"key of the canaries of drills, 1"})
	if err != nil {
		return token.Signer{}, fmt.Errorf("derive key of canaries: %w", err)
	}
	seed := sha256.Sum256([]byte(sig))
	return token.NewSigner("", ed25519.NewKeyFromSeed(seed[:]))
}

// endpoint mints canaries at the token endpoint.
type endpoint struct {
	client *http.Client
	issuer string
	signer token.Signer
	now    func() time.Time
	rand   io.Reader
}

// Mint gets a canary credential for a task, as any client with a key does (RFC 7523
// section 2.2). The error wraps errUnknownCanary when the canary must be declared.
func (e endpoint) Mint(ctx context.Context, tenant, task string) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(e.rand, id[:]); err != nil {
		return "", fmt.Errorf("make assertion id: %w", err)
	}
	now := e.now()
	assertion, err := e.signer.Sign("JWT", map[string]any{"iss": canary, "sub": canary, "aud": e.issuer, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		"jti": hex.EncodeToString(id[:])})
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion": {assertion}, "tenant": {tenant}, "task": {task}, "purpose": {"prove that the kill switch works"}, "scope": {drillScope}, "audience": {e.issuer}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(e.issuer, "/")+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("ask for a canary: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := e.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask for a canary: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token       string `json:"access_token"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return "", fmt.Errorf("read answer of the token endpoint: status %d: %w", resp.StatusCode, err)
	}
	switch {
	case resp.StatusCode == http.StatusOK && answer.Token != "":
		return answer.Token, nil
	case answer.Error == "invalid_client", answer.Error == "invalid_grant":
		return "", fmt.Errorf("%w: %s (%s)", errUnknownCanary, answer.Error, answer.Description)
	}
	return "", fmt.Errorf("the token endpoint answered %d: %s (%s)", resp.StatusCode, answer.Error, answer.Description)
}

// registration of the canary of a tenant.
func (d *drills) registration(key ed25519.PublicKey, kid, issuer string) events.Registration {
	return events.Registration{Identity: canary, Kind: events.KindServiceAccount, Owner: d.conf.Owner, Feature: canary,
		Purpose: "proves by drills that the kill switch works", KillSwitch: "identity", Scopes: []string{drillScope}, Audiences: []string{issuer},
		Keys: []events.JWK{{KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(key), KeyID: kid, Use: "sig"}}}
}

// minted gets a canary, and has the identity registered first when it is not.
func (d *drills) minted(ctx context.Context, s started) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, drillMint)
	defer cancel()
	known, err := d.bus.LastSequence(ctx, bus.StreamLog, events.LogSubject(s.tenant, "identity", "registered", canary))
	if err != nil {
		return "", fmt.Errorf("look for the canary: %w", err)
	}
	declared := false
	tick := time.NewTicker(drillSoon)
	defer tick.Stop()
	for {
		var raw string
		if known > 0 || declared {
			if raw, err = d.mint.Mint(ctx, s.tenant, s.Task); !errors.Is(err, errUnknownCanary) {
				return raw, err
			}
		}
		if !declared {
			if err := d.declare(ctx, s); err != nil {
				return "", err
			}
			declared = true
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

func (d *drills) declare(ctx context.Context, s started) error {
	key, err := canarySigner(d.signer)
	if err != nil {
		return err
	}
	public, ok := key.Private.Public().(ed25519.PublicKey)
	if !ok {
		return errors.New("declare canary: its key is not Ed25519")
	}
	e, err := events.New(events.Origin{Source: source, Tenant: s.tenant, Time: d.now(), Cause: &s.cause},
		events.IdentityDeclared{Registration: d.registration(public, key.ID, d.issuer)})
	if err == nil {
		err = d.bus.Publish(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("declare canary: %w", err)
	}
	return nil
}

// drillMetrics are what is measured of drills; nil measures nothing.
type drillMetrics struct {
	book   *drill.Book
	now    func() time.Time
	age    *prometheus.Desc
	closed *prometheus.HistogramVec
}

func newDrillMetrics(reg *prometheus.Registry, book *drill.Book, now func() time.Time) (*drillMetrics, error) {
	if reg == nil {
		return nil, nil
	}
	m := &drillMetrics{book: book, now: now,
		age: prometheus.NewDesc("lanyard_drill_proof_age_seconds", "How long ago the kill switch of a tenant was last proven by a drill.", []string{"tenant"}, nil),
		closed: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lanyard_drill_closed_seconds", Help: "From the request of a drill until its revocation was closed.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}}, []string{"tenant", "outcome"})}
	return m, errors.Join(reg.Register(m), reg.Register(m.closed))
}

func (m *drillMetrics) observe(tenant string, f events.DrillFinished) {
	if m != nil {
		m.closed.WithLabelValues(tenant, string(f.Outcome)).Observe(f.ClosedMS / 1000)
	}
}

// Describe implements prometheus.Collector.
func (m *drillMetrics) Describe(c chan<- *prometheus.Desc) { c <- m.age }

// Collect implements prometheus.Collector. A switch that was never proven has no age.
func (m *drillMetrics) Collect(c chan<- prometheus.Metric) {
	for _, tenant := range m.book.Tenants() {
		if s := m.book.Status(tenant); s.LastProven != nil {
			c <- prometheus.MustNewConstMetric(m.age, prometheus.GaugeValue, m.now().Sub(*s.LastProven).Seconds(), tenant)
		}
	}
}
