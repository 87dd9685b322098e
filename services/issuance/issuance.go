// Package issuance is the service that knows every identity and mints every token:
// the registry, the policy decision, the OAuth endpoints and the signing key.
//
// A token is handed out only after the log holds it with everything it hangs from.
// Nothing is minted under a dead handle: the process's guard hears of revocations
// first, a ledger folded from the log never forgets them, and a token that loses the
// race is refused by every guard because it carries the dead handle.
package issuance

import (
	"cmp"
	"context"
	"crypto/cipher"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/api"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/authzen"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/policies"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/review"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/signing"
)

// Name of the service and of its durable consumer.
const Name = "issuance"

const (
	defaultTTL   = 5 * time.Minute
	ceilingTTL   = 15 * time.Minute
	defaultDepth = 4
	defaultWidth = 256
)

// New builds the service. It needs all of Env but Outbound, which is needed as soon as
// a trusted issuer is not local and not a file.
func New(env service.Env) (service.Service, error) { return build(env, nil) }

// build is New with a failpoint for tests, see grant.Config.
func build(env service.Env, failpoint func()) (service.Service, error) {
	cfg := env.Config.Issuance
	issuer, err := url.Parse(env.Config.Issuer.URL)
	if err != nil || issuer.Scheme == "" || issuer.Host == "" || issuer.RawQuery != "" || issuer.Fragment != "" {
		return service.Service{}, fmt.Errorf("build issuance: issuer.url %q must be an absolute URL without query and fragment", env.Config.Issuer.URL)
	}
	if env.Namer == nil || env.Keys == nil || env.Guard == nil {
		return service.Service{}, fmt.Errorf("build issuance: it needs the lineage key, the signing keys and a guard")
	}
	verifier, err := attest.New(attest.Config{Issuers: cfg.Trusted, TrustDomains: cfg.TrustDomains, ChainFrom: cfg.ChainFrom, Audience: env.Config.Issuer.URL,
		Clients: attest.Clients{Outbound: env.Outbound, Local: attest.LoopbackClient()}, Now: env.Now, Log: env.Log})
	if err != nil {
		return service.Service{}, fmt.Errorf("build issuance: %w", err)
	}
	identities := state.NewEntities(env.Bus, env.State, "identity/2", registry.Fold)
	index := registry.NewIndex(env.State, env.Bus, env.Namer, env.Now)
	dead := ledger.New()
	rules := policies.NewStore(env.Log)
	reg := &registry.Registry{Identities: identities, Index: index, Dead: dead, Log: env.Bus, Namer: env.Namer, Now: env.Now, Grace: time.Duration(cfg.OwnerGrace)}
	nonces, pages, err := derived(env)
	if err != nil {
		return service.Service{}, fmt.Errorf("build issuance: %w", err)
	}
	minter := &grant.Minter{Config: grant.Config{
		Issuer: env.Config.Issuer.URL, Issuers: verifier.Issuers(),
		TTL:      min(cmp.Or(time.Duration(cfg.TTL), defaultTTL), ceilingTTL),
		MaxTTL:   min(cmp.Or(time.Duration(cfg.MaxTTL), ceilingTTL), ceilingTTL),
		MaxDepth: cmp.Or(cfg.MaxDepth, defaultDepth), MaxWidth: cmp.Or(cfg.MaxWidth, defaultWidth),
		Attester: verifier, Bindings: index, Identities: registry.Remember(identities, env.Bus), Ledger: dead, KillSet: env.Guard, Keys: env.Keys,
		Namer: env.Namer, Policies: rules, Log: sampled(env.Log), Publisher: env.Bus, Rand: env.Rand, Now: env.Now,
		TransactionDomain: cfg.TransactionDomain, ChainTo: cfg.ChainTo, Endpoint: grant.TokenEndpoint(issuer), Nonces: nonces, Once: env.State.Once, Count: env.State.Count, Failpoint: failpoint,
	}}
	mux := http.NewServeMux()
	authorize := atIssuer(issuer, env.Authorize)
	oauth := &grant.Server{Mint: minter.Mint, Inspect: minter.Inspect, Revoke: minter.Revoke, Authorize: authorize, JWKS: env.Keys.JWKS, Issuer: issuer, Nonces: nonces, Certificates: len(cfg.TrustDomains) > 0, Chains: len(cfg.ChainTo) > 0, Now: env.Now}
	if err := oauth.Register(mux, env.Metrics); err != nil {
		return service.Service{}, fmt.Errorf("build issuance: %w", err)
	}
	(&api.API{Bus: env.Bus, Registry: reg, Loader: identities, Inventory: index, Ledger: dead, Namer: env.Namer,
		Log: env.Log, Rand: env.Rand, Now: env.Now}).Register(mux, strings.TrimSuffix(issuer.Path, "/"), authorize)
	(&policies.API{Store: rules, Bus: env.Bus, History: env.Bus, Exceptions: dead.Exceptions, Loader: identities, Issuer: env.Config.Issuer.URL, Log: env.Log, Rand: env.Rand, Now: env.Now}).
		Register(mux, strings.TrimSuffix(issuer.Path, "/"), authorize)
	decided := &authzen.Identities{Policy: func() authzen.Policy {
		if set := rules.Active(); set != nil {
			return authzen.Cedar{Set: set, Exceptions: dead.Exceptions}
		}
		return nil
	}, Loader: identities, Inventory: index,
		Ledger: dead, KillSet: env.Guard, Namer: env.Namer, Now: env.Now}
	(&authzen.Server{Issuer: issuer, Open: decided.Open, Pages: pages, Rand: env.Rand, Log: env.Log}).Register(mux, authorize)
	reviewer := &review.Reviewer{Policies: rules, History: env.Bus, Loader: identities, Ledger: dead, Namer: env.Namer,
		MaxTTL: ceilingTTL, Log: env.Log, Now: env.Now}
	stages := &signing.Stages{Ring: env.Keys, Source: registry.Source}
	return service.Service{
		Name:     Name,
		Handlers: slices.Concat(reg.Handlers(), stages.Handlers(), reviewer.Handlers()),
		Tasks: []service.Task{
			{Name: "inventory", Run: func(ctx context.Context) error { return env.State.Follow(ctx, env.Bus, index.View()) }},
			{Name: "ledger", Run: func(ctx context.Context) error { return dead.Run(ctx, env.Bus) }},
			{Name: "policies", Run: func(ctx context.Context) error { return rules.Run(ctx, env.Bus) }},
		},
		Publishes: []string{
			events.TypeIdentityDeclared, events.TypeIdentityRegistered, events.TypeIdentityReinstated, events.TypeTrustDeclared,
			events.TypeExceptionGranted, events.TypeExceptionEnded, events.TypeTaskEnded, events.TypeTaskClosed, events.TypeTaskHeartbeat,
			events.TypeCredentialIssued, events.TypeCredentialDenied,
			events.TypeDelegationCreated, events.TypeTokenExchanged, events.TypeRevocationRequested,
			events.TypePolicyPublished, events.TypePolicyActivated,
		},
		HTTP:               mux,
		ClientCertificates: len(cfg.TrustDomains) > 0,
	}, nil
}

// derived is what every issuance process computes alike from the lineage key: the nonces
// for DPoP proofs, and what seals the page tokens of the AuthZEN API.
func derived(env service.Env) (*grant.Nonces, cipher.AEAD, error) {
	secret, err := env.Keys.LineageKey()
	if err != nil {
		return nil, nil, err
	}
	nonces, err := grant.NewNonces(secret, env.Config.Issuance.DPoPNonce != config.NonceOptional)
	if err != nil {
		return nil, nil, err
	}
	pages, err := authzen.NewPages(secret)
	return nonces, pages, err
}

// atIssuer makes the URL of requests with a DPoP proof the one below the issuer that the
// caller knows: behind a proxy that ends TLS the request itself does not tell it.
func atIssuer(issuer *url.URL, authorize func(string, http.Handler) http.Handler) func(string, http.Handler) http.Handler {
	return func(scope string, h http.Handler) http.Handler {
		inner := authorize(scope, h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("DPoP") != "" {
				r = r.Clone(r.Context())
				r.URL.Scheme, r.URL.Host = issuer.Scheme, issuer.Host
			}
			inner.ServeHTTP(w, r)
		})
	}
}

// sampled keeps strangers who knock from filling the log: ten alike a second are
// written, then every hundredth.
func sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Second, 10, 100)
	}))
}
