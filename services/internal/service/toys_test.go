package service_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// Four small services that together use every part of the machinery: alpha turns
// feature.disabled into identity.retired, beta turns that into an alert and is
// exclusive, gamma keeps the kill feed beating and answers HTTP, delta owns timers.

func alpha(env service.Env) (service.Service, error) {
	return service.Service{Name: "alpha", Sweep: true, Handlers: []bus.Handler{
		bus.On(func(_ context.Context, cause events.Event, p events.FeatureDisabled) ([]events.Event, error) {
			e, err := events.New(events.Origin{Source: "/alpha", Tenant: events.Tenant(cause), Time: cause.Time(), Cause: &cause},
				events.IdentityRetired{IdentityChange: events.IdentityChange{Identity: p.Feature + "-bot", Reason: "feature disabled"}})
			return []events.Event{e}, err
		}, events.TypeIdentityRetired),
	}}, nil
}

func beta(env service.Env) (service.Service, error) {
	return service.Service{Name: "beta", Exclusive: true, Handlers: []bus.Handler{
		bus.On(func(_ context.Context, cause events.Event, p events.IdentityRetired) ([]events.Event, error) {
			e, err := events.New(events.Origin{Source: "/beta", Tenant: events.Tenant(cause), Time: cause.Time(), Cause: &cause},
				events.AnomalyDetected{Alert: "a-" + p.Identity, Detector: "D99", Severity: events.SeverityLow, Identity: p.Identity})
			return []events.Event{e}, err
		}, events.TypeAnomalyDetected),
	}}, nil
}

func gamma(env service.Env) (service.Service, error) {
	signer, err := env.Keys.FeedSigner()
	if err != nil {
		return service.Service{}, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/hello", env.Authorize(service.ScopeRead, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := service.Caller(r.Context())
		service.JSON(w, http.StatusOK, map[string]string{"subject": c.Subject})
	})))
	mux.HandleFunc("GET /v1/panic", func(http.ResponseWriter, *http.Request) { panic("on purpose") })
	mux.HandleFunc("GET /v1/wait", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		service.JSON(w, http.StatusOK, map[string]bool{"ended": true})
	})
	return service.Service{Name: "revocation", HTTP: mux, Publishes: []string{events.TypeRevocationAccepted},
		Handlers: []bus.Handler{bus.On(func(context.Context, events.Event, events.ReceiptSigned) ([]events.Event, error) { return nil, nil })},
		Tasks: []service.Task{{Name: "heartbeat", Run: func(ctx context.Context) error {
			t := time.NewTicker(200 * time.Millisecond)
			defer t.Stop()
			for {
				text, err := signer.Sign(token.TypHeartbeat, guard.Heartbeat{Epoch: 1, Time: env.Now()})
				if err != nil {
					return err
				}
				if _, err := env.Bus.Kill(ctx, "heartbeat", []byte(text), events.DeterministicID("beat", text), nil, time.Minute); err != nil && ctx.Err() == nil {
					return err
				}
				select {
				case <-ctx.Done():
					return nil
				case <-t.C:
				}
			}
		}}}}, nil
}

func delta(env service.Env) (service.Service, error) {
	return service.Service{Name: "delta", Handlers: []bus.Handler{
		bus.On(func(context.Context, events.Event, events.TimerDue) ([]events.Event, error) { return nil, nil }),
	}}, nil
}

// toys is a read-only table.
var toys = []service.Constructor{alpha, beta, gamma, delta}

// toyNames are the NATS users of toys, in order.
var toyNames = []string{"alpha", "beta", "revocation", "delta"}

var others = []config.User{
	{Kind: "product", Tenant: "acme"}, {Kind: "product", Tenant: "globex"}, {Kind: "soc", Tenant: "acme"},
	{Kind: "guard", Tenant: "acme", Point: "web"}, {Kind: "guard", Tenant: "globex", Point: "db"},
}

func testConfig(t *testing.T) config.Config {
	t.Helper()
	c := config.Default(filepath.Join(t.TempDir(), "data"))
	c.Issuer.URL = "http://127.0.0.1:9"
	c.NATS.Users = others
	return c.Complete()
}

// accessToken is a token of the deployment whose ring this is.
func accessToken(t *testing.T, ring *keys.Ring, issuer, tenant, scope string) string {
	t.Helper()
	s, err := ring.Signer()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ring.LineageKey()
	if err != nil {
		t.Fatal(err)
	}
	n, err := lineage.NewNamer(key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	text, err := s.Sign(token.TypAccess, token.Claims{Issuer: issuer, Subject: "tester", Audience: token.Strings{issuer}, ClientID: "tester",
		IssuedAt: now.Unix(), Expires: now.Add(time.Minute).Unix(), ID: "id-" + scope, Scope: scope, Tenant: tenant,
		Lineage: []lineage.Handle{n.Name(lineage.KindTenant, tenant, tenant)}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}
