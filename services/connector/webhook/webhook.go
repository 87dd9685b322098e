// Package webhook asks another system to end an account, by a signed message as
// standardwebhooks.com describes it (version 1.0.0): headers webhook-id,
// webhook-timestamp and webhook-signature with v1 (HMAC-SHA-256) and v1a (Ed25519).
// Revocation imports it; anybody may who wants the connector alone.
//
// The receiver answers 2xx when it has ended the account, and may say more in JSON:
// {"outcome": "enforced" | "already_dead" | "unsupported_until", "until": RFC 3339}.
package webhook

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/internal/web"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
)

// Types of the messages.
const (
	TypeEnd    = "dev.lanyard.secret.end"
	TypeVerify = "dev.lanyard.secret.verify"
)

// Config of a receiver.
type Config struct {
	Client  *http.Client // internal/outbound
	URL     string
	Secret  secret.Secret // whsec_<base64>, signs v1; one of the two is needed
	Private secret.Secret // whsk_<base64 of an Ed25519 seed or private key>, signs v1a
	// Verify: the receiver understands TypeVerify and answers {"dead": bool}. Otherwise
	// its word that it has ended the account is all there is.
	Verify bool
	Now    func() time.Time
}

// Connector asks the receiver.
type Connector struct {
	cfg  Config
	hmac []byte
	key  ed25519.PrivateKey
	seen web.Seen
}

// New checks the configuration.
func New(c Config) (*Connector, error) {
	out := &Connector{cfg: c}
	err := web.CheckURL("the URL", c.URL)
	if c.Client == nil || c.Now == nil || c.Secret.Empty() && c.Private.Empty() {
		err = errors.Join(err, errors.New("it needs a client, a clock and a secret or a private key"))
	}
	if !c.Secret.Empty() {
		b, ok := decode(c.Secret, "whsec_")
		if out.hmac = b; !ok || len(b) < 24 || len(b) > 64 {
			err = errors.Join(err, errors.New("the secret is not whsec_ and 24 to 64 bytes in base64"))
		}
	}
	if !c.Private.Empty() {
		b, ok := decode(c.Private, "whsk_")
		switch {
		case ok && len(b) == ed25519.SeedSize:
			out.key = ed25519.NewKeyFromSeed(b)
		case ok && len(b) == ed25519.PrivateKeySize:
			out.key = ed25519.PrivateKey(b)
		default:
			err = errors.Join(err, errors.New("the private key is not whsk_ and an Ed25519 key in base64"))
		}
	}
	if err != nil {
		return nil, errors.Join(errors.New("make webhook connector"), err)
	}
	return out, nil
}

func decode(s secret.Secret, prefix string) ([]byte, bool) {
	text, ok := strings.CutPrefix(s.Reveal(), prefix)
	b, err := base64.StdEncoding.DecodeString(text)
	return b, ok && err == nil
}

// Describe implements connector.Connector.
func (c *Connector) Describe() connector.Description {
	d := connector.Description{Kind: "webhook", Ends: "asks the receiver by a signed message (Standard Webhooks)",
		Verifies: "the receiver has confirmed the end"}
	if c.cfg.Verify {
		d.Verifies = "the receiver is asked again and says that the account is dead"
	}
	return d
}

// message is the body.
type message struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"`
	Data      data   `json:"data"`
}

type data struct {
	Revocation string `json:"revocation"`
	Reason     string `json:"reason"`
	Tenant     string `json:"tenant"`
	Secret     string `json:"secret"`
	Account    string `json:"account"`
}

// reply is what a receiver may answer.
type reply struct {
	Outcome connector.Outcome `json:"outcome"`
	Until   time.Time         `json:"until"`
	Dead    *bool             `json:"dead"`
}

// send posts a message. Its id is the same at every try.
func (c *Connector) send(ctx context.Context, kind, id string, t connector.Target) (reply, error) {
	var out reply
	if err := t.Check(); err != nil {
		return out, err
	}
	if err := ctx.Err(); err != nil {
		return out, connector.Unreachable("send message", err)
	}
	now := c.cfg.Now()
	body, err := json.Marshal(message{kind, now.UTC().Format(time.RFC3339), data{t.Revocation, t.Reason, t.Tenant, t.Secret, t.Account}})
	if err != nil {
		return out, connector.Refused("make message", err)
	}
	r, err := http.NewRequest(http.MethodPost, c.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return out, connector.Refused("send message", errors.New("the URL is not valid"))
	}
	stamp := strconv.FormatInt(now.Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", stamp)
	r.Header.Set("webhook-signature", c.sign(id+"."+stamp+"."+string(body)))
	a, err := web.Do(ctx, c.cfg.Client, "send message", r)
	if err != nil {
		return out, err
	}
	if a.Status < 200 || a.Status > 299 {
		return out, web.Fail("send message", a.Status)
	}
	if len(bytes.TrimSpace(a.Body)) > 0 && json.Unmarshal(a.Body, &out) != nil {
		out = reply{} // a receiver need not answer in JSON
	}
	return out, nil
}

// sign is the header of both signatures, as far as there are keys.
func (c *Connector) sign(text string) string {
	var sigs []string
	if c.hmac != nil {
		m := hmac.New(sha256.New, c.hmac)
		m.Write([]byte(text))
		sigs = append(sigs, "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	}
	if c.key != nil {
		sigs = append(sigs, "v1a,"+base64.StdEncoding.EncodeToString(ed25519.Sign(c.key, []byte(text))))
	}
	return strings.Join(sigs, " ")
}

// End implements connector.Connector.
func (c *Connector) End(ctx context.Context, t connector.Target) (connector.Result, error) {
	r, err := c.send(ctx, TypeEnd, t.Request, t)
	if err != nil {
		return connector.Result{}, err
	}
	switch r.Outcome {
	case "", connector.Enforced:
		r.Outcome = connector.Enforced
	case connector.AlreadyDead:
	case connector.UnsupportedUntil:
		if r.Until.IsZero() {
			return connector.Result{}, connector.Refused("read answer", errors.New("unsupported_until without a time"))
		}
		return connector.Result{Outcome: r.Outcome, Until: r.Until, Detail: "the receiver says so"}, nil
	default:
		return connector.Result{}, connector.Refused("read answer", errors.New("the receiver's outcome is unknown"))
	}
	c.seen.Put(t)
	return connector.Result{Outcome: r.Outcome, Detail: "the receiver has confirmed the end"}, nil
}

// Verify implements connector.Connector.
func (c *Connector) Verify(ctx context.Context, t connector.Target) (connector.Status, error) {
	if !c.cfg.Verify {
		return c.seen.Status(ctx, t)
	}
	r, err := c.send(ctx, TypeVerify, t.Request+"-verify", t)
	if err != nil {
		return connector.Status{}, err
	}
	if r.Dead == nil {
		return connector.Status{}, connector.Refused("read answer", errors.New("the receiver does not say whether the account is dead"))
	}
	return connector.Status{Dead: *r.Dead, Detail: "asked the receiver"}, nil
}
