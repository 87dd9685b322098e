package guard

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

func TestCheckNamesTheReason(t *testing.T) {
	w := freshWorld(t)
	sign := func(s token.Signer, change func(*token.Claims)) string {
		k := w.keys
		k.issuer = s
		return k.token(t, handle(1), w.now, change)
	}
	good := func(*token.Claims) {}
	same := w.keys.stranger
	same.ID = w.keys.issuer.ID // the stranger's key under the issuer's kid
	receipt, err := w.keys.issuer.Sign(token.TypReceipt, token.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		raw    string
		scopes []string
		code   string
		status int
		claims bool
	}{
		"good":           {sign(w.keys.issuer, good), []string{"read", "write"}, "", 0, false},
		"no token":       {"", nil, CodeMissing, 401, false},
		"garbage":        {"x.y.z", nil, CodeMalformed, 401, false},
		"too long":       {strings.Repeat("x", token.MaxSize+1), nil, CodeMalformed, 401, false},
		"other type":     {receipt, nil, CodeMalformed, 401, false},
		"unknown key":    {sign(w.keys.stranger, good), nil, CodeUnknownKey, 401, false},
		"forged":         {sign(same, good), nil, CodeSignature, 401, false},
		"other issuer":   {sign(w.keys.issuer, func(c *token.Claims) { c.Issuer = "https://x" }), nil, CodeIssuer, 401, true},
		"other audience": {sign(w.keys.issuer, func(c *token.Claims) { c.Audience = token.Strings{"x"} }), nil, CodeAudience, 401, true},
		"expired":        {sign(w.keys.issuer, func(c *token.Claims) { c.IssuedAt -= 600; c.Expires = w.now.Unix() - 5 }), nil, CodeExpired, 401, true},
		"not yet":        {sign(w.keys.issuer, func(c *token.Claims) { c.NotBefore = w.now.Unix() + 6 }), nil, CodeNotYet, 401, true},
		"no lineage":     {sign(w.keys.issuer, func(c *token.Claims) { c.Lineage = nil }), nil, CodeLineage, 401, false},
		"long lineage":   {sign(w.keys.issuer, func(c *token.Claims) { c.Lineage = make([]lineage.Handle, 33) }), nil, CodeLineage, 401, false},
		"scope":          {sign(w.keys.issuer, good), []string{"read", "admin"}, CodeScope, 403, true},
		"part of scope":  {sign(w.keys.issuer, good), []string{"rea"}, CodeScope, 403, true},
	} {
		t.Run(name, func(t *testing.T) {
			var told *Denial
			w.g.cfg.Denied = func(d Denial) { told = &d }
			_, err := w.g.Check(t.Context(), Request{Token: c.raw, Scopes: c.scopes})
			if got := denied(t, err); got != c.code {
				t.Fatalf("got %q, %v, want %q", got, told, c.code)
			}
			if c.code == "" {
				return
			}
			d, _ := errors.AsType[*Denial](err)
			if told == nil || told.Code != c.code || told.Reason == "" || (told.Claims != nil) != c.claims || d.Status() != c.status {
				t.Errorf("denial %+v, status %d", told, d.Status())
			}
			if strings.Contains(d.Error(), " ") || strings.Contains(d.Challenge(), told.Reason) {
				t.Errorf("the caller learns %q", d.Error())
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.g.Check(ctx, Request{Token: sign(w.keys.issuer, good)}); denied(t, err) != CodeStale {
		t.Errorf("an ended request: %v", err)
	}
}

// TestCheckLooksAtTheLeaseAfterwards: the machine sleeps while a token is verified.
func TestCheckLooksAtTheLeaseAfterwards(t *testing.T) {
	w := freshWorld(t)
	raw := w.keys.token(t, handle(1), w.now)
	w.g.cfg.Keys = sleepyKeys{w}
	if got := w.check(raw); got != CodeStale {
		t.Errorf("got %q", got)
	}
}

type sleepyKeys struct{ w *world }

func (k sleepyKeys) Key(kid string) (token.Key, bool) {
	k.w.boot += DefaultLease
	return token.NewKeySet(k.w.keys.issuer.Key()).Key(kid)
}

func TestFutureHeartbeatIsRefused(t *testing.T) {
	w := newWorld(t, newKeyring(t), "")
	w.feed.send(HeartbeatName, w.keys.beat(t, w.keys.feed, Heartbeat{Epoch: 1, Time: w.now.Add(time.Hour)}))
	w.settle()
	if got := w.check(w.keys.token(t, handle(1), w.now)); got != CodeStale || w.err == nil {
		t.Errorf("got %q, %v", got, w.err)
	}
}

func TestNewRefuses(t *testing.T) {
	k := newKeyring(t)
	good := Config{Point: "p", Tenant: "acme", Issuer: testIssuer, Audience: testAudience, Keys: token.KeySet{}, FeedKey: k.feedKey, Feed: &memFeed{}}
	for name, change := range map[string]func(*Config){
		"no point": func(c *Config) { c.Point = "" }, "no issuer": func(c *Config) { c.Issuer = "" }, "no audience": func(c *Config) { c.Audience = "" },
		"bad tenant": func(c *Config) { c.Tenant = "A.b" }, "no keys": func(c *Config) { c.Keys = nil }, "no feed": func(c *Config) { c.Feed = nil },
		"short key": func(c *Config) { c.FeedKey = c.FeedKey[:31] }, "negative lease": func(c *Config) { c.Lease = -1 },
		"no directory": func(c *Config) { c.StateFile = filepath.Join(t.TempDir(), "no", "such", "x.json") },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestJournal(t *testing.T) {
	keys := newKeyring(t)
	file := filepath.Join(t.TempDir(), "guard.json")
	w := newWorld(t, keys, file)
	beat(w, 1, 0)
	w.settle()
	for i := range uint64(5) {
		w.feed.send(handle(i).String(), keys.entry(t, keys.feed, kill(w, i, "r")))
	}
	w.settle()
	w.answer()
	w.feed.stored = nil // what is answered for does not depend on the feed
	w.start()
	for i := range uint64(5) {
		if _, dead := w.g.Dead([]lineage.Handle{handle(i)}); !dead {
			t.Errorf("handle %d came back", i)
		}
	}
	k, ok := w.g.keeper.(*files)
	if !ok {
		t.Fatal("no files")
	}
	// A line that was being written is cut off; a damaged one is refused.
	if _, err := k.journal.WriteString("1 9 half"); err != nil {
		t.Fatal(err)
	}
	w.start()
	if w.g.position().journal != 5 {
		t.Errorf("%d lines", w.g.position().journal)
	}
	// Past their retention all lines go.
	w.g.pos.journal = journalMin
	if err := w.g.tidy(w.now.Add(time.Hour)); err != nil || w.g.position().journal != 0 {
		t.Errorf("%d lines, %v", w.g.position().journal, err)
	}
	w.g.pos.journal = 0
	k, _ = w.g.keeper.(*files)
	forged := keys.entry(t, keys.stranger, kill(w, 7, "r"))
	if err := k.record([]line{{1, 1, forged}}); err != nil {
		t.Fatal(err)
	}
	if _, err := New(w.g.cfg); err == nil {
		t.Error("started on a journal that somebody else wrote")
	}
	if err := k.compact(func(line) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if err := k.record([]line{{1, 1, []byte("a b")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := New(w.g.cfg); err == nil {
		t.Error("started on a damaged journal")
	}
}

func TestReceiptsAreChecked(t *testing.T) {
	k := newKeyring(t)
	until := time.Now()
	good, err := SignReceipt(k.feed, events.ReceiptSigned{Revocation: "r", Handle: "h", Point: "p", Outcome: events.ReceiptEnforced,
		Epoch: 1, Sequence: 2, AppliedAt: time.Now(), Until: &until})
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyReceipt(good, k.feedKey); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*events.ReceiptSigned){
		"revocation": func(r *events.ReceiptSigned) { r.Revocation = "x" }, "handle": func(r *events.ReceiptSigned) { r.Handle = "x" },
		"point": func(r *events.ReceiptSigned) { r.Point = "x" }, "outcome": func(r *events.ReceiptSigned) { r.Outcome = "x" },
		"epoch": func(r *events.ReceiptSigned) { r.Epoch++ }, "sequence": func(r *events.ReceiptSigned) { r.Sequence++ },
		"time": func(r *events.ReceiptSigned) { r.AppliedAt = r.AppliedAt.Add(1) }, "until": func(r *events.ReceiptSigned) { r.Until = nil },
		"jws": func(r *events.ReceiptSigned) { r.JWS = "" },
	} {
		r := good
		change(&r)
		if err := VerifyReceipt(r, k.feedKey); err == nil {
			t.Errorf("%s: verifies", name)
		}
	}
	if err := VerifyReceipt(good, k.stranger.Key().Public.(ed25519.PublicKey)); err == nil {
		t.Error("another key verifies")
	}
}

func FuzzDecode(f *testing.F) {
	k := newKeyring(f)
	now := time.Unix(1_800_000_000, 0)
	e, err := SealEntry(k.feed, Entry{Handle: handle(1), Mode: events.ModeRevoke, Revocation: "r", At: now, Keep: now})
	if err != nil {
		f.Fatal(err)
	}
	h, err := SealHeartbeat(k.feed, Heartbeat{Epoch: 1, Time: now})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("nhi.kill."+handle(1).String(), e, `{"handle":"AAAAAAAAAAAAAAAB"}`)
	f.Add("nhi.kill.heartbeat", h, `{"epoch":1,"last":2,"time":"2027-01-15T08:00:00Z"}`)
	f.Fuzz(func(t *testing.T, subject string, data []byte, payload string) {
		decode(Message{Sequence: 1, Subject: subject, Data: data}, k.feedKey)
		for _, typ := range []string{token.TypKill, token.TypHeartbeat} {
			raw, err := k.feed.Sign(typ, rawJSON(payload))
			if err != nil {
				continue
			}
			it := decode(Message{Sequence: 1, Subject: subject, Data: []byte(raw)}, k.feedKey)
			if it.entry != nil && !strings.HasSuffix(subject, it.entry.Handle.String()) {
				t.Fatalf("entry %+v taken on subject %q", it.entry, subject)
			}
			if it.entry != nil && it.entry.check() != nil || it.beat != nil && it.beat.Time.IsZero() {
				t.Fatalf("taken: %+v", it)
			}
		}
	})
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func TestRemoteKeys(t *testing.T) {
	k := newKeyring(t)
	now := time.Unix(1_800_000_000, 0)
	var body atomic.Value
	var calls, status atomic.Int64
	status.Store(200)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write(body.Load().([]byte))
	}))
	defer srv.Close()
	set := func(s ...token.Key) {
		b, err := token.JWKS(s)
		if err != nil {
			t.Fatal(err)
		}
		body.Store(b)
	}
	r := &RemoteKeys{Client: srv.Client(), URL: srv.URL, Now: func() time.Time { return now }}
	has := func(id string) bool { _, ok := r.Key(id); return ok }

	set(k.issuer.Key())
	if len(r.KeyIDs()) != 0 || !has(k.issuer.ID) || calls.Load() != 1 {
		t.Fatalf("first key: %d calls", calls.Load())
	}
	for range 100 {
		has("unknown")
	}
	if calls.Load() != 1 {
		t.Errorf("%d calls for unknown kids at once", calls.Load())
	}
	set(k.issuer.Key(), k.stranger.Key())
	now = now.Add(keysInterval)
	if !has(k.stranger.ID) || calls.Load() != 2 || len(r.KeyIDs()) != 2 {
		t.Errorf("a new key is not found: %d calls", calls.Load())
	}
	for name, bad := range map[string][]byte{"empty": []byte(`{"keys":[]}`), "html": []byte("<html>"), "long": make([]byte, maxJWKS+1)} {
		body.Store(bad)
		if err := r.Refresh(t.Context()); err == nil || !has(k.issuer.ID) {
			t.Errorf("%s: %v, last good kept %v", name, err, has(k.issuer.ID))
		}
	}
	set(k.stranger.Key())
	status.Store(500)
	if err := r.Refresh(t.Context()); err == nil || !has(k.issuer.ID) {
		t.Errorf("status 500: %v", err)
	}
	status.Store(200)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx, nil) }()
	deadline := time.After(10 * time.Second)
	for len(r.KeyIDs()) != 1 {
		select {
		case <-deadline:
			t.Fatal("Run does not fetch at once")
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	<-done
	if has(k.issuer.ID) {
		t.Error("a retired key is still known")
	}
}
