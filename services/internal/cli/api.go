package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/operator"
)

// endpoints is DATA/endpoints.json.
type endpoints struct {
	NATS       string `json:"nats"`
	Redis      string `json:"redis"`
	Issuer     string `json:"issuer"`
	Intake     string `json:"intake"`
	Guard      string `json:"guard"`
	Alerts     string `json:"alerts"`
	Revocation string `json:"revocation"`
	Rotation   string `json:"rotation"`
	Debug      string `json:"debug"`
	LocalOIDC  string `json:"local_oidc"`
	Operator   string `json:"operator_credential"`
	PID        int    `json:"pid"`
}

// readEndpoints reads DATA/endpoints.json.
func readEndpoints(data string) (endpoints, error) {
	var e endpoints
	b, err := os.ReadFile(filepath.Join(data, "endpoints.json"))
	if errors.Is(err, os.ErrNotExist) {
		return e, fmt.Errorf("no running Lanyard found: %s is missing; start one with 'lanyard up --data %s', or pass --data", filepath.Join(data, "endpoints.json"), data)
	}
	if err != nil {
		return e, fmt.Errorf("read endpoints: %w", err)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("read endpoints %s: %w", filepath.Join(data, "endpoints.json"), err)
	}
	return e, nil
}

// api calls the services' HTTP APIs as the operator.
type api struct {
	ends   endpoints
	tokens interface {
		Token(ctx context.Context) (string, error)
	}
	http *http.Client
}

// bearer is one access token that somebody was given.
type bearer string

// Token returns it.
func (b bearer) Token(context.Context) (string, error) { return string(b), nil }

// openAPI prepares calls to the Lanyard whose data directory is o.data, as its operator
// or as whom the access token in the file LANYARD_TOKEN belongs to.
func openAPI(o *options) (*api, error) {
	ends, err := readEndpoints(o.data)
	if err != nil {
		return nil, err
	}
	client, err := httpClient(o.data)
	if err != nil {
		return nil, err
	}
	if file := os.Getenv("LANYARD_TOKEN"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read LANYARD_TOKEN: %w", err)
		}
		return &api{ends: ends, tokens: bearer(strings.TrimSpace(string(b))), http: client}, nil
	}
	path := ends.Operator
	if path == "" {
		path = filepath.Join(o.data, "operator.json")
	}
	cred, err := operator.Load(path)
	if err != nil {
		return nil, err
	}
	return &api{ends: ends, tokens: operator.NewSource(cred, client, time.Now), http: client}, nil
}

// httpClient trusts the deployment's own authority where there is one.
func httpClient(data string) (*http.Client, error) {
	client := &http.Client{Timeout: 90 * time.Second}
	ca := caFile(data)
	if ca == "" {
		return client, nil
	}
	b, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read authority: %s holds no certificate", ca)
	}
	client.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return client, nil
}

// problem is an RFC 9457 answer.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// apiError is an answer other than 2xx.
type apiError struct {
	problem
	url string
}

func (e *apiError) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	if e.Code != "" {
		return fmt.Sprintf("%s (%s)", text, e.Code)
	}
	return fmt.Sprintf("%s answered %d: %s", e.url, e.Status, text)
}

// call sends body (nil: none) as JSON and decodes the answer into out (nil: discard).
func (a *api) call(ctx context.Context, method, base, path string, query url.Values, body, out any) error {
	resp, err := a.send(ctx, method, base, path, query, body, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(out); err != nil {
		return fmt.Errorf("read answer of %s: %w", path, err)
	}
	return nil
}

// send is call for answers that are not one JSON value. The caller closes the body.
func (a *api) send(ctx context.Context, method, base, path string, query url.Values, body any, accept string) (*http.Response, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	return a.do(ctx, method, base, path, query, "application/json", b, accept)
}

// sendRaw is send with a body of any type.
func (a *api) sendRaw(ctx context.Context, method, base, path string, query url.Values, contentType string, body []byte) (*http.Response, error) {
	return a.do(ctx, method, base, path, query, contentType, body, "")
}

func (a *api) do(ctx context.Context, method, base, path string, query url.Values, contentType string, body []byte, accept string) (*http.Response, error) {
	if base == "" {
		return nil, fmt.Errorf("call %s: endpoints.json names no such service", path)
	}
	u := strings.TrimSuffix(base, "/") + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	tok, err := a.tokens.Token(ctx)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	if len(body) > 0 {
		req.Header.Set("Content-Type", contentType)
	}
	client := a.http
	if accept != "" {
		req.Header.Set("Accept", accept)
		stream := *a.http
		stream.Timeout = 0
		client = &stream
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w; is 'lanyard up' running?", base, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &apiError{url: u}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || json.Unmarshal(b, &e.problem) != nil || e.Title == "" && e.Detail == "" {
		e.Title = strings.TrimSpace(string(b))
	}
	e.Status = resp.StatusCode
	return nil, e
}
