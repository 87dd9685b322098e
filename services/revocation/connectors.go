package revocation

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/httpcall"
	"github.com/lanyard-nhi/lanyard/services/connector/nats"
	"github.com/lanyard-nhi/lanyard/services/connector/oauth"
	"github.com/lanyard-nhi/lanyard/services/connector/postgres"
	"github.com/lanyard-nhi/lanyard/services/connector/redis"
	"github.com/lanyard-nhi/lanyard/services/connector/webhook"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/outbound"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/cascade"
)

// connect makes the configured connectors. None of them connects yet: a system that
// is away must not keep revocation from starting.
func connect(c config.Config, now func() time.Time) (out []cascade.Downstream, closers []io.Closer, err error) {
	for _, d := range c.Revocation.Downstreams {
		d = d.Complete()
		conn, err := connectOne(c, d, now)
		if err != nil {
			return nil, closers, fmt.Errorf("downstream %s: %w", d.Name, err)
		}
		if cl, ok := conn.(io.Closer); ok {
			closers = append(closers, cl)
		}
		out = append(out, cascade.Downstream{Name: d.Name, Connector: conn, Concurrency: d.Concurrency, Timeout: d.Timeout.D(),
			StuckAfter: d.StuckAfter.D(), Compensation: d.Compensation, Wait: 200 * time.Millisecond})
	}
	return out, closers, nil
}

// optional reads a secret's file when there is one.
func optional(path string) (secret.Secret, error) {
	if path == "" {
		return secret.Secret{}, nil
	}
	return secret.Read(path)
}

func connectOne(c config.Config, d config.Downstream, now func() time.Time) (connector.Connector, error) {
	own, err := optional(d.SecretFile)
	if err != nil {
		return nil, err
	}
	key, err := optional(d.KeyFile)
	if err != nil {
		return nil, err
	}
	switch d.Kind {
	case "postgres":
		return postgres.New(postgres.Config{URL: d.URL, Password: own, TryLogin: d.TryLogin, Connections: d.Concurrency})
	case "redis":
		return redis.New(redis.Config{URLs: append([]string{d.URL}, d.Nodes...), Password: own, Delete: d.Delete})
	case "nats":
		return nats.New(nats.Config{URL: d.URL, CAFile: d.CAFile, Account: d.Account, Credentials: own, Operator: key})
	}
	client, err := outboundFor(c, d)
	if err != nil {
		return nil, err
	}
	switch d.Kind {
	case "oauth":
		return oauth.New(oauth.Config{Client: client, Revocation: d.URL, Introspect: d.VerifyURL, ClientID: d.ClientID, ClientSecret: own, Tokens: d.Tokens})
	case "webhook":
		return webhook.New(webhook.Config{Client: client, URL: d.URL, Secret: own, Private: key, Verify: d.VerifyURL != "", Now: now})
	case "http":
		return callFor(client, d)
	}
	return nil, errors.New("its kind is not known")
}

// outboundFor is the SSRF-safe client; only what is configured as local may be reached
// on this machine and network.
func outboundFor(c config.Config, d config.Downstream) (*http.Client, error) {
	o := outbound.Options{Ports: c.Outbound.Ports, Timeout: d.Timeout.D(), MaxBody: c.Outbound.MaxBody, Idle: d.Concurrency}
	if d.Local {
		o.Own, o.CAFile = []string{d.URL}, d.CAFile
		if d.Kind != "webhook" {
			o.Own = append(o.Own, d.VerifyURL)
		}
	}
	return outbound.New(o)
}

func callFor(client *http.Client, d config.Downstream) (connector.Connector, error) {
	call := httpcall.Config{Client: client, Headers: map[string]secret.Secret{}, End: httpcall.Call{Method: d.Method, URL: d.URL, Body: d.Body}}
	for name, file := range d.Headers {
		value, err := secret.Read(file)
		if err != nil {
			return nil, err
		}
		call.Headers[name] = value
	}
	if d.VerifyURL != "" {
		call.Verify = &httpcall.Call{Method: http.MethodGet, URL: d.VerifyURL}
	}
	return httpcall.New(call)
}
