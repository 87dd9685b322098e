package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/operator"
)

// call sends body as JSON with the operator's token and decodes the answer into out.
func (r *run) call(ctx context.Context, method, base, path string, q url.Values, body, out any) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	return r.send(ctx, method, base+path, q, "application/json", b, out)
}

// once is call for a request that must be carried out once however often it is sent:
// it carries an Idempotency-Key.
func (r *run) once(ctx context.Context, method, target string, body, out any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return r.patient(ctx, func() error {
		return r.exchange(ctx, method, target, "application/json", "demo"+r.o.Suffix, b, out)
	})
}

// send is call with a body of any type.
func (r *run) send(ctx context.Context, method, target string, q url.Values, contentType string, body []byte, out any) error {
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	return r.patient(ctx, func() error { return r.exchange(ctx, method, target, contentType, "", body, out) })
}

// patient repeats f while a service is not there, for at most Patience.
func (r *run) patient(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(r.o.Patience)
	for {
		err := f()
		if err == nil || !absent(err) || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// absent reports whether err says that a service is not there now.
func absent(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.status == http.StatusServiceUnavailable || status.status == http.StatusBadGateway
	}
	var oauth *operator.OAuthError
	if errors.As(err, &oauth) {
		return oauth.Status == http.StatusServiceUnavailable
	}
	var u *url.Error
	return errors.As(err, &u)
}

func (r *run) exchange(ctx context.Context, method, target, contentType, key string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	tok, err := r.sys.Operator(ctx)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	if len(body) > 0 {
		req.Header.Set("Content-Type", contentType)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := r.sys.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("reach %s: %w", target, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", target, &url.Error{Op: method, URL: target, Err: err})
	}
	if resp.StatusCode/100 != 2 {
		return &statusError{resp.StatusCode, target, strings.TrimSpace(string(b))}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read answer of %s: %w", target, err)
	}
	return nil
}

// statusError is an answer other than 2xx.
type statusError struct {
	status int
	url    string
	body   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answered %d: %s", e.url, e.status, e.body)
}

// prove asks the local issuer to vouch for a subject, as a platform would for a workload.
func (r *run) prove(ctx context.Context, subject string) (string, error) {
	form := url.Values{"client_id": {"local"}, "client_secret": {r.sys.LocalSecret}, "sub": {subject}, "aud": {r.sys.Issuer}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.sys.LocalOIDC+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := r.sys.HTTP.Do(req)
	if err != nil {
		return "", fmt.Errorf("reach local issuer: %w", err)
	}
	defer resp.Body.Close()
	var t struct {
		IDToken string `json:"id_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&t); err != nil || t.IDToken == "" {
		return "", fmt.Errorf("ask local issuer for %s: it answered %d", subject, resp.StatusCode)
	}
	return t.IDToken, nil
}

// issue gets a task credential for the workload subject.
func (r *run) issue(ctx context.Context, tenant, subject, task, purpose string) (string, error) {
	proof, err := r.prove(ctx, subject)
	if err != nil {
		return "", err
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {proof}, "tenant": {tenant},
		"task": {task}, "purpose": {purpose}, "scope": {"orders.read orders.write"}, "audience": audiences()}
	tok, err := r.token(ctx, form)
	if err != nil {
		return "", fmt.Errorf("issue to %s: %w", subject, err)
	}
	return tok, nil
}

// delegate exchanges parent for a narrower token of the actor subject.
func (r *run) delegate(ctx context.Context, parent, tenant, subject, task string) (string, error) {
	proof, err := r.prove(ctx, subject)
	if err != nil {
		return "", err
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {parent}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"actor_token": {proof}, "actor_token_type": {"urn:ietf:params:oauth:token-type:jwt"}, "tenant": {tenant},
		"task": {task}, "purpose": {"process orders"}, "scope": {"orders.read"}, "audience": {audience(tenant)}}
	tok, err := r.token(ctx, form)
	if err != nil {
		return "", fmt.Errorf("delegate to %s: %w", subject, err)
	}
	return tok, nil
}

// token posts to the token endpoint and remembers the id of what was handed out.
func (r *run) token(ctx context.Context, form url.Values) (string, error) {
	var tok string
	err := r.patient(ctx, func() (err error) {
		tok, _, err = operator.Exchange(ctx, r.sys.HTTP, r.sys.Issuer+"/oauth2/token", form)
		return err
	})
	if err != nil {
		return "", err
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if parts := strings.Split(tok, "."); len(parts) == 3 {
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil && json.Unmarshal(b, &claims) == nil {
			r.minted.Lock()
			r.res.Credentials = append(r.res.Credentials, claims.ID)
			r.minted.Unlock()
		}
	}
	return tok, nil
}

// parallel calls f for 0..n-1 with at most width calls at once and returns the first error.
func parallel(ctx context.Context, width, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sem := make(chan struct{}, width)
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			select {
			case sem <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-sem }()
			if err := f(ctx, i); err != nil {
				cancel(err)
			}
		}()
	}
	wg.Wait()
	return context.Cause(ctx)
}
