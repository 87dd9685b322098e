// Package publish sends events to Lanyard's intake over HTTP. Products import it.
//
// Sending is safe to repeat: an event's id decides what it is, so events that arrive
// twice are stored once. Publish therefore retries by itself while intake is busy or
// away, and a caller that got an error may call it again with the same events.
package publish

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	batchType   = "application/cloudevents-batch+json"
	maxBatch    = 500     // events in one request
	maxBytes    = 4 << 20 // of one request's body
	maxAnswer   = 4 << 20
	firstWait   = 100 * time.Millisecond
	longestWait = 10 * time.Second
)

// Config of a Publisher. URL and Token are required.
type Config struct {
	// URL of intake, such as "https://intake.example.com". Plain http is allowed for
	// loopback addresses only, since the token travels with every request.
	URL string
	// Token returns a Lanyard access token with the scope lanyard.intake. It is called
	// for every request, so it should cache; after a 401 it is called once more.
	Token func(ctx context.Context) (string, error)
	// HTTPClient sends the requests. Default: a client that gives up on a request
	// after 30 s and follows no redirects.
	HTTPClient *http.Client
	// Attempts is how often one request is tried, default 8 (about 13 s of waiting).
	Attempts int
}

// Publisher sends events. It is safe for concurrent use.
type Publisher struct {
	url      string
	token    func(ctx context.Context) (string, error)
	client   *http.Client
	attempts int
}

// New checks the configuration.
func New(cfg Config) (*Publisher, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("configure publisher: URL cannot be parsed") // its error would repeat a password
	}
	if u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("configure publisher: URL %q must be absolute, without query, fragment and user", u.Redacted())
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return nil, fmt.Errorf("configure publisher: URL %q must be https; plain http is for loopback only", u.Redacted())
	}
	if cfg.Token == nil {
		return nil, errors.New("configure publisher: Token is missing")
	}
	client := cfg.HTTPClient
	if client == nil {
		client = &http.Client{
			Timeout:       30 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Publisher{url: strings.TrimSuffix(u.String(), "/") + "/v1/events", token: cfg.Token, client: client, attempts: cmp.Or(cfg.Attempts, 8)}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Refusal says why one event was refused. It will be refused again.
type Refusal struct {
	Index  int    // position among the events passed to Publish
	ID     string // of the event
	Code   string // stable name, such as "schema_violation"; see events.Code
	Reason string // for people
}

// RefusedError lists the events that intake refused. All others are stored.
type RefusedError struct{ Refused []Refusal }

// Error implements error.
func (e *RefusedError) Error() string {
	first := e.Refused[0]
	return fmt.Sprintf("intake refused %d events, first %s: %s: %s", len(e.Refused), first.ID, first.Code, first.Reason)
}

// ResponseError is an answer that refuses a whole request.
type ResponseError struct {
	Status int    // HTTP status
	Code   string // stable name, such as "insufficient_scope"
	Detail string // for people
}

// Error implements error.
func (e *ResponseError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("intake answered %d %s: %s", e.Status, e.Code, e.Detail), ": ")
}

// Publish sends events and returns nil when intake has stored all of them durably.
// It retries while intake cannot be reached, is busy (429) or fails (5xx), until
// ctx ends or the attempts are used up. The error is or wraps a *RefusedError when
// some events can never be stored, and a *ResponseError when intake refuses the
// request as a whole; after any other error the events may or may not be stored,
// and publishing them again is safe.
func (p *Publisher) Publish(ctx context.Context, es ...events.Event) error {
	texts := make([][]byte, len(es))
	for i, e := range es {
		text, err := events.Encode(e)
		if err != nil {
			return fmt.Errorf("publish event %s: %w", e.ID(), err)
		}
		texts[i] = text
	}
	var refusedAll []Refusal
	for from := 0; from < len(es); {
		n, body := batch(texts[from:])
		refused, err := p.send(ctx, body)
		if err != nil {
			if len(refusedAll) > 0 {
				err = errors.Join(err, &RefusedError{refusedAll})
			}
			return fmt.Errorf("publish events %d to %d of %d: %w", from, from+n-1, len(es), err)
		}
		for _, r := range refused {
			if r.Index < 0 || r.Index >= n {
				return fmt.Errorf("publish: intake refused event %d of a request of %d", r.Index, n)
			}
			r.Index += from
			r.ID = es[r.Index].ID()
			refusedAll = append(refusedAll, r)
		}
		from += n
	}
	if len(refusedAll) > 0 {
		return fmt.Errorf("publish: %w", &RefusedError{refusedAll})
	}
	return nil
}

// batch joins as many texts as one request may hold, at least one.
func batch(texts [][]byte) (n int, body []byte) {
	body = append(body, '[')
	for n < len(texts) && n < maxBatch && (n == 0 || len(body)+len(texts[n])+2 <= maxBytes) {
		if n > 0 {
			body = append(body, ',')
		}
		body = append(body, texts[n]...)
		n++
	}
	return n, append(body, ']')
}

// send posts one batch until intake has decided on it.
func (p *Publisher) send(ctx context.Context, body []byte) ([]Refusal, error) {
	wait, renewed := firstWait, false
	var last error
	for attempt := 1; ; attempt++ {
		refused, after, err := p.post(ctx, body)
		if err == nil {
			return refused, nil
		}
		if response, ok := errors.AsType[*ResponseError](err); ok {
			switch {
			case response.Status == http.StatusUnauthorized && !renewed:
				renewed = true // the token may have ended on its way
				continue
			case response.Status != http.StatusTooManyRequests && response.Status < 500:
				return nil, err
			}
		}
		last = err
		if ctx.Err() != nil {
			return nil, last
		}
		if attempt >= p.attempts {
			return nil, fmt.Errorf("gave up after %d attempts: %w", attempt, last)
		}
		if err := pause(ctx, max(wait, after)); err != nil {
			return nil, errors.Join(err, last)
		}
		wait = min(2*wait, longestWait)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// post sends one request. after is how long intake asked to wait.
func (p *Publisher) post(ctx context.Context, body []byte) (refused []Refusal, after time.Duration, err error) {
	token, err := p.token(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("get token: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, 0, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", batchType)
	res, err := p.client.Do(r)
	if err != nil {
		return nil, 0, fmt.Errorf("send request: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, 0, fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode != http.StatusAccepted {
		var problem struct{ Code, Detail string }
		_ = json.Unmarshal(answer, &problem) // a proxy may answer anything
		return nil, retryAfter(res.Header), &ResponseError{res.StatusCode, problem.Code, problem.Detail}
	}
	var result struct {
		Accepted int
		Refused  []Refusal
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return nil, 0, fmt.Errorf("read answer: %w", err)
	}
	return result.Refused, 0, nil
}

// retryAfter reads the header in its form of seconds (RFC 9110 section 10.2.3), at
// most a minute.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 60)) * time.Second
}
