package guard

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/nats-io/nats.go"

	"crypto"
	"encoding/base64"
)

func edKey(t testing.TB, k token.Key) ed25519.PublicKey {
	t.Helper()
	pub, ok := k.Public.(ed25519.PublicKey)
	if !ok {
		t.Fatalf("key of type %T", k.Public)
	}
	return pub
}

// signProof makes a DPoP proof as a client does.
func signProof(t testing.TB, s token.Signer, claims map[string]any) string {
	t.Helper()
	jwk, err := s.Key().JWK()
	if err != nil {
		t.Fatal(err)
	}
	head, err := json.Marshal(map[string]any{"typ": token.TypProof, "alg": s.Algorithm, "jwk": json.RawMessage(jwk)})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(head) + "." + b64(body)
	sig, err := s.Private.Sign(nil, []byte(input), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(sig)
}

func numbered(n uint64) lineage.Handle {
	var h lineage.Handle
	binary.BigEndian.PutUint64(h[4:], n+1)
	return h
}

func TestFeedFill(t *testing.T) {
	s := newSystem(t)
	fill := func(from uint64) (seqs []uint64, last uint64) {
		t.Helper()
		last, err := s.feed.Fill(t.Context(), from, func(m guard.Message) error {
			if len(seqs) > 0 && m.Sequence <= seqs[len(seqs)-1] {
				t.Fatalf("sequence %d after %d", m.Sequence, seqs[len(seqs)-1])
			}
			seqs = append(seqs, m.Sequence)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return seqs, last
	}
	if seqs, last := fill(1); len(seqs) != 0 || last != 0 {
		t.Fatalf("empty stream: %v, %d", seqs, last)
	}
	// More than two pages, with holes where heartbeats superseded each other.
	const entries = 2300
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < entries; i += 16 {
				if _, err := s.conn.Kill(t.Context(), numbered(uint64(i)).String(), []byte("x"), fmt.Sprint(i), nil, 0); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					s.heartbeat()
				}
			}
		})
	}
	wg.Wait()
	s.heartbeat()
	want, err := s.conn.LastSequence(t.Context(), bus.StreamKill, ">")
	if err != nil {
		t.Fatal(err)
	}
	seqs, last := fill(1)
	if len(seqs) != entries+1 || last != want || seqs[len(seqs)-1] != want {
		t.Errorf("%d messages up to %d, want %d up to %d", len(seqs), last, entries+1, want)
	}
	if seqs, last := fill(want); len(seqs) != 1 || last != want {
		t.Errorf("from the last: %v, %d", seqs, last)
	}
	if seqs, last := fill(want + 1); len(seqs) != 0 || last != want {
		t.Errorf("from beyond the end: %v, %d", seqs, last)
	}
	mid := want / 2
	if seqs, last := fill(mid); seqs[0] < mid || last != want {
		t.Errorf("from the middle: first %d, last %d", seqs[0], last)
	}
	stop := errors.New("stop")
	if _, err := s.feed.Fill(t.Context(), 1, func(guard.Message) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("callback's error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.feed.Fill(ctx, 1, func(guard.Message) error { return nil }); err == nil {
		t.Error("an ended context is ignored")
	}
}

func TestFeedSubscribe(t *testing.T) {
	s := newSystem(t)
	got := make(chan guard.Message, 10)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.feed.Subscribe(ctx, func(m guard.Message) { got <- m }); err != nil {
		t.Fatal(err)
	}
	// What is not republished by the server is no part of the feed.
	if err := s.nc.Publish("nhi.feed.heartbeat", []byte("forged")); err != nil {
		t.Fatal(err)
	}
	seq := s.revoke(numbered(1), "rev")
	m := <-got
	if m.Sequence != seq || m.Subject != "nhi.kill."+numbered(1).String() {
		t.Errorf("got %d %s", m.Sequence, m.Subject)
	}
	if _, err := guard.OpenEntry(m.Data, edKey(t, s.signer.Key())); err != nil {
		t.Error(err)
	}
	cancel()
	eventually(t, "the subscription ends with its context", func() bool { return s.nc.NumSubscriptions() == 0 })
}

func TestFeedAnswerOnce(t *testing.T) {
	s := newSystem(t)
	e, err := events.New(events.Origin{Source: "/lanyard/guard/p", Tenant: "acme", Time: time.Now(), ID: "one"},
		events.GuardAttached{Point: "p", Audience: audience, PublicJWK: "{}", LeaseSeconds: 15, KeyIDs: []string{}, At: time.Now().UTC()})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.feed.Answer(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if last, err := s.conn.LastSequence(t.Context(), bus.StreamGuard, ">"); err != nil || last != 1 {
		t.Errorf("stored up to %d, %v", last, err)
	}
}

// TestFeedOutage: what was published while the guard was cut off is known to it
// before it says yes again.
func TestFeedOutage(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := s.open()
	eventually(t, "allowed", func() bool { return ask(t, srv, "", bearer(s.token(numbered(0)))).StatusCode == 200 })
	for round := range uint64(5) {
		first := 1 + round*20
		if err := s.nc.ForceReconnect(); err != nil && !errors.Is(err, nats.ErrConnectionReconnecting) {
			t.Fatal(err)
		}
		var seq uint64
		for i := range uint64(20) {
			seq = s.revoke(numbered(first+i), fmt.Sprint("rev-", first+i))
		}
		eventually(t, "every entry is applied", func() bool {
			res := ask(t, srv, fmt.Sprint("?min_sequence=", seq), bearer(s.token(numbered(0))))
			return res.StatusCode == 200
		})
		for i := range uint64(20) {
			if got := ask(t, srv, "", bearer(s.token(numbered(first+i)))).StatusCode; got != 401 {
				t.Fatalf("round %d: revoked handle %d answers %d", round, first+i, got)
			}
		}
	}
}
