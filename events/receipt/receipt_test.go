package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 5_000_000, time.UTC)

func key(t testing.TB, seed byte) token.Signer {
	t.Helper()
	s, err := token.NewSigner("", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func public(s token.Signer) ed25519.PublicKey { return s.Key().Public.(ed25519.PublicKey) }

func statement() Statement {
	return Statement{Revocation: "9f2b", Handle: "AAECAwQFBgcICQoL", Mode: events.ModeRevoke, Target: events.Target{Kind: "identity", Tenant: "acme", ID: "bot"},
		By: "ana", AcceptedAt: at, ClosedAt: at.Add(20 * time.Second), Epoch: 2, Sequence: 40, Descendants: 7, Tenants: 2}
}

// answer is a point that answered as its guard would.
func answer(t testing.TB, s Statement, k token.Signer, name string, change ...func(*Point, *signed)) Point {
	t.Helper()
	p := Point{Point: name, Tenant: "acme", LeaseEnd: new(at.Add(16 * time.Second)), Outcome: events.ReceiptEnforced, AppliedAt: at.Add(3 * time.Millisecond)}
	r := signed{Revocation: s.Revocation, Handle: s.Handle, Point: name, Outcome: p.Outcome, Epoch: s.Epoch, Sequence: s.Sequence, AppliedAt: p.AppliedAt}
	for _, f := range change {
		f(&p, &r)
	}
	jwk, err := token.Key{Public: k.Key().Public}.JWK()
	if err != nil {
		t.Fatal(err)
	}
	p.Key = string(jwk)
	if p.Receipt, err = k.Sign(token.TypReceipt, r); err != nil {
		t.Fatal(err)
	}
	return p
}

func expired(name string) Point {
	end := at.Add(16 * time.Second)
	return Point{Point: name, Tenant: "globex", LeaseEnd: &end, Outcome: events.ReceiptLeaseExpired, AppliedAt: end}
}

func bundle(t testing.TB, feed token.Signer, s Statement, points ...Point) []byte {
	t.Helper()
	jws, err := Seal(feed, s, points)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Write(&b, jws, points); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample(t testing.TB, feed token.Signer) []byte {
	s := statement()
	return bundle(t, feed, s,
		answer(t, s, key(t, 2), "a/orders"),
		expired("b/slow"),
		answer(t, s, key(t, 3), "c/late", func(p *Point, r *signed) {
			p.Outcome, r.Outcome = events.ReceiptUnsupportedUntil, events.ReceiptUnsupportedUntil
			r.Until = new(at.Add(10 * time.Second))
		}),
		answer(t, s, key(t, 4), "pg-main/secret-1", func(p *Point, r *signed) {
			p.LeaseEnd, p.Outcome, r.Outcome = nil, events.ReceiptUnreachable, events.ReceiptUnreachable
		}))
}

func TestVerify(t *testing.T) {
	feed := key(t, 1)
	r, err := Verify(bytes.NewReader(sample(t, feed)), public(feed))
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Statement; s.Expected != 3 || s.Points != 4 || len(r.Points) != 4 || s.Outcomes[events.ReceiptLeaseExpired] != 1 || s.Descendants != 7 {
		t.Errorf("%+v", r.Statement)
	}
	none, err := Verify(bytes.NewReader(bundle(t, feed, statement())), public(feed))
	if err != nil || none.Statement.Points != 0 {
		t.Errorf("of no points: %+v, %v", none, err)
	}
	if _, err := Verify(bytes.NewReader(sample(t, feed)), public(key(t, 9))); !errors.Is(err, ErrStatement) {
		t.Errorf("under another key: %v", err)
	}
}

// TestEveryByteCounts changes each byte of a bundle in two ways.
func TestEveryByteCounts(t *testing.T) {
	feed := key(t, 1)
	good := sample(t, feed)
	for i := range good {
		for _, x := range []byte{good[i] ^ 1, good[i] ^ 0x20} {
			bad := bytes.Clone(good)
			bad[i] = x
			if _, err := Verify(bytes.NewReader(bad), public(feed)); err == nil {
				t.Errorf("byte %d changed from %q to %q and nobody noticed", i, good[i], x)
			}
		}
		if _, err := Verify(bytes.NewReader(good[:i]), public(feed)); err == nil {
			t.Errorf("cut off after %d bytes and nobody noticed", i)
		}
	}
}

func TestLinesThatMove(t *testing.T) {
	feed := key(t, 1)
	lines := strings.SplitAfter(string(sample(t, feed)), "\n")
	lines = lines[:len(lines)-1]
	for name, order := range map[string][]int{"one missing": {0, 1, 2, 3}, "swapped": {0, 2, 1, 3, 4}, "twice": {0, 1, 1, 2, 3, 4}, "no statement": {1, 2, 3, 4}, "nothing": {}} {
		var b strings.Builder
		for _, i := range order {
			b.WriteString(lines[i])
		}
		if _, err := Verify(strings.NewReader(b.String()), public(feed)); !errors.Is(err, ErrDiffers) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClosuresThatDoNotHold: a statement that is well signed over points that do not
// bear it out.
func TestClosuresThatDoNotHold(t *testing.T) {
	feed, own := key(t, 1), key(t, 2)
	s := statement()
	for name, c := range map[string]struct {
		point Point
		want  error
	}{
		"other revocation": {answer(t, s, own, "a", func(_ *Point, r *signed) { r.Revocation = "other" }), ErrReceipt},
		"other handle":     {answer(t, s, own, "a", func(_ *Point, r *signed) { r.Handle = "BBBBBBBBBBBBBBBB" }), ErrReceipt},
		"other point":      {answer(t, s, own, "a", func(_ *Point, r *signed) { r.Point = "b" }), ErrReceipt},
		"other outcome":    {answer(t, s, own, "a", func(_ *Point, r *signed) { r.Outcome = events.ReceiptRefused }), ErrReceipt},
		"other time":       {answer(t, s, own, "a", func(_ *Point, r *signed) { r.AppliedAt = at }), ErrReceipt},
		"earlier entry":    {answer(t, s, own, "a", func(_ *Point, r *signed) { r.Sequence-- }), ErrReceipt},
		"earlier epoch":    {answer(t, s, own, "a", func(_ *Point, r *signed) { r.Epoch-- }), ErrReceipt},
		"no key":           {func() Point { p := answer(t, s, own, "a"); p.Key = ""; return p }(), ErrReceipt},
		"other key":        {func() Point { p := answer(t, s, own, "a"); p.Key = answer(t, s, feed, "a").Key; return p }(), ErrReceipt},
		"no receipt":       {func() Point { p := answer(t, s, own, "a"); p.Receipt = ""; return p }(), ErrReceipt},
		"refused": {answer(t, s, own, "a", func(p *Point, r *signed) {
			p.Outcome, r.Outcome = events.ReceiptRefused, events.ReceiptRefused
		}), ErrOpen},
		"until later": {answer(t, s, own, "a", func(p *Point, r *signed) {
			p.Outcome, r.Outcome, r.Until = events.ReceiptUnsupportedUntil, events.ReceiptUnsupportedUntil, new(s.ClosedAt.Add(1))
		}), ErrOpen},
		"lease not over": {func() Point {
			p := expired("a")
			p.AppliedAt = s.ClosedAt.Add(time.Second)
			p.LeaseEnd = &p.AppliedAt
			return p
		}(), ErrOpen},
		"lease of nobody":       {func() Point { p := expired("a"); p.LeaseEnd = nil; return p }(), ErrMalformed},
		"lease with a receipt":  {func() Point { p := expired("a"); p.Receipt = answer(t, s, own, "a").Receipt; return p }(), ErrMalformed},
		"lease at another time": {func() Point { p := expired("a"); p.AppliedAt = at; return p }(), ErrMalformed},
	} {
		if _, err := Verify(bytes.NewReader(bundle(t, feed, s, c.point)), public(feed)); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	later := answer(t, s, own, "a", func(_ *Point, r *signed) { r.Sequence++ })
	if _, err := Verify(bytes.NewReader(bundle(t, feed, s, later)), public(feed)); err != nil {
		t.Errorf("a revoke that was put back: %v", err)
	}
	s.Mode = events.ModeFreeze
	if _, err := Verify(bytes.NewReader(bundle(t, feed, s, later)), public(feed)); !errors.Is(err, ErrReceipt) {
		t.Errorf("a later entry than the freeze's: %v", err)
	}
}

// TestRoot: the vectors of RFC 6962's reference implementation (Certificate
// Transparency, cpp/merkletree/merkle_tree_test.cc).
func TestRoot(t *testing.T) {
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := map[int]string{
		0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var tr tree
	for n := 0; ; n++ {
		if want, ok := roots[n]; ok {
			if got := tr.root(); got != b64Of(t, want) {
				t.Errorf("root of %d leaves is %s", n, got)
			}
		}
		if n == len(leaves) {
			return
		}
		b, err := hex.DecodeString(leaves[n])
		if err != nil {
			t.Fatal(err)
		}
		tr.add(b)
	}
}

// TestTheOneForm: statements that were signed hold hashes of these lines; they may
// never look otherwise.
func TestTheOneForm(t *testing.T) {
	p := Point{Point: "a", Tenant: "acme", LeaseEnd: new(at), Outcome: events.ReceiptEnforced, AppliedAt: at, Key: `{"kty":"OKP"}`, Receipt: "x.y.z"}
	text, err := p.line()
	want := `{"point":"a","tenant":"acme","lease_end":"2026-03-01T12:00:00.005Z","outcome":"enforced","applied_at":"2026-03-01T12:00:00.005Z","key":"{\"kty\":\"OKP\"}","receipt":"x.y.z"}` + "\n"
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v", text, err)
	}
}

func FuzzVerify(f *testing.F) {
	feed := key(f, 1)
	good := sample(f, feed)
	f.Add(good)
	f.Add(bundle(f, feed, statement()))
	f.Add([]byte("{\"lanyard_receipts\":1,\"statement\":\"a.b.c\"}\n"))
	f.Add(bytes.Repeat([]byte("a"), MaxLine+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Verify(bytes.NewReader(b), public(feed))
		if err != nil {
			return
		}
		var again bytes.Buffer
		jws := strings.Split(string(b), `"`)[5]
		if err := Write(&again, jws, r.Points); err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Errorf("it holds and is not in the one form: %v", err)
		}
	})
}

func b64Of(t testing.TB, text string) string {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b)
}
