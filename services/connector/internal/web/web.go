// Package web does what the connectors over HTTP have in common: one request with a
// bounded answer, its status told apart, and no secret or URL in an error. Only
// connectors import it.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/lanyard-nhi/lanyard/services/connector"
)

// maxAnswer is the most that is read of an answer, in bytes.
const maxAnswer = 64 << 10

// Answer of a server.
type Answer struct {
	Status int
	Body   []byte
}

// Do sends r. An error is Unreachable: nobody answered. The client's own errors name
// the URL, which may hold a token, so their text is not kept.
func Do(ctx context.Context, client *http.Client, doing string, r *http.Request) (Answer, error) {
	resp, err := client.Do(r.WithContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			return Answer{}, connector.Unreachable(doing, ctx.Err())
		}
		return Answer{}, connector.Unreachable(doing, plain(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Answer{}, connector.Unreachable(doing, errors.New("the answer broke off or is too large"))
	}
	return Answer{resp.StatusCode, b}, nil
}

// plain is why the client failed, without the URL.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) && u.Timeout() {
		return errors.New("no answer in time")
	}
	return errors.New("no answer, or the client does not let the address through")
}

// Fail is the error for a status that is not success.
func Fail(doing string, status int) error {
	err := fmt.Errorf("the server answers %d", status)
	if status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500 {
		return connector.Unreachable(doing, err)
	}
	return connector.Refused(doing, err)
}

// CheckURL refuses what is no https URL, or http on loopback. What is local is let
// through by the client that was given, or not.
func CheckURL(name, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || !slices.Contains([]string{"https", "http"}, u.Scheme) {
		return fmt.Errorf("%s is no URL such as https://HOST/PATH, without user", name)
	}
	if h := u.Hostname(); u.Scheme == "http" && h != "localhost" && !strings.HasPrefix(h, "127.") && h != "::1" {
		return fmt.Errorf("%s is http and not on loopback: use https", name)
	}
	return nil
}

// Seen remembers which targets the server has said to be dead, for servers that cannot
// be asked. It holds at most some thousand and forgets at random.
type Seen struct {
	mu   sync.Mutex
	dead map[string]bool
}

// Put notes that the server said so.
func (s *Seen) Put(t connector.Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead == nil {
		s.dead = map[string]bool{}
	}
	for k := range s.dead {
		if len(s.dead) < 10000 {
			break
		}
		delete(s.dead, k)
	}
	s.dead[t.Tenant+"\x00"+t.Account] = true
}

// Status is what is remembered.
func (s *Seen) Status(ctx context.Context, t connector.Target) (connector.Status, error) {
	if err := t.Check(); err != nil {
		return connector.Status{}, err
	}
	if err := ctx.Err(); err != nil {
		return connector.Status{}, connector.Unreachable("ask server", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead[t.Tenant+"\x00"+t.Account] {
		return connector.Status{Dead: true, Detail: "the server has confirmed the end; it cannot be asked"}, nil
	}
	return connector.Status{Detail: "the server cannot be asked and has not confirmed an end"}, nil
}
