package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/nats-io/nkeys"
)

func open(t *testing.T, dir string, create bool) *Ring {
	t.Helper()
	r, err := Open(dir, create)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fill opens a fresh ring with every kind of key.
func fill(t *testing.T) *Ring {
	t.Helper()
	r := open(t, filepath.Join(t.TempDir(), "keys"), true)
	for _, u := range []string{"issuance", "guard-acme-web"} {
		if _, err := r.NkeySeed(u); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestEveryKeyWorksAndSurvivesReopening(t *testing.T) {
	r := fill(t)
	again := open(t, r.Dir(), true)
	plain := open(t, r.Dir(), false)
	digest := sha256.Sum256([]byte("x"))

	s, err := plain.Signer()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Private.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	k, ok := again.Key(s.ID)
	if !ok || k.Algorithm != "ES256" || !ecdsa.VerifyASN1(k.Public.(*ecdsa.PublicKey), digest[:], sig) {
		t.Fatalf("the public key %v does not verify what the signer signed", k)
	}

	f, err := plain.FeedSigner()
	if err != nil {
		t.Fatal(err)
	}
	sig, err = f.Private.Sign(rand.Reader, []byte("x"), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := again.FeedPublic()
	if err != nil || f.Algorithm != "EdDSA" || !ed25519.Verify(pub, []byte("x"), sig) {
		t.Fatalf("the feed's public key does not verify: %v", err)
	}

	l1, err := r.LineageKey()
	if err != nil {
		t.Fatal(err)
	}
	l2, err := plain.LineageKey()
	if err != nil || len(l1) != 32 || !bytes.Equal(l1, l2) {
		t.Fatalf("lineage key changed: %v", err)
	}

	seed, err := plain.NkeySeed("guard-acme-web")
	if err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	want, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := plain.NkeyPublic("guard-acme-web"); err != nil || got != want {
		t.Fatalf("NkeyPublic = %q, %v, want %q", got, err, want)
	}
	if users, err := plain.Users(); err != nil || strings.Join(users, " ") != "guard-acme-web issuance" {
		t.Fatalf("Users = %v, %v", users, err)
	}

	op, err := plain.Operator()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(plain.OperatorJWKSPath())
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(b, &set); err != nil || len(set.Key(op.ID)) != 1 || !set.Keys[0].IsPublic() {
		t.Fatalf("operator.jwks.json = %s, %v", b, err)
	}
	if sec, err := plain.LocalIssuerSecret(); err != nil || len(sec.Reveal()) != 64 {
		t.Fatalf("LocalIssuerSecret: %v", err)
	}
}

func TestModes(t *testing.T) {
	r := fill(t)
	public := map[string]bool{feedPublicFile: true, operatorJWKSFile: true, "issuance.pub": true, "guard-acme-web.pub": true}
	n := 0
	err := filepath.WalkDir(r.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else if public[d.Name()] {
			want = 0o644
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		n++
		return nil
	})
	if err != nil || n < 12 {
		t.Fatalf("walked %d files: %v", n, err)
	}
}

func TestExposedFilesAreRefused(t *testing.T) {
	for _, name := range []string{"feed.jwk", "lineage.key", "operator.jwk", "nats/issuance.nk", "signing/state.json", "local-issuer.secret", "signing/KID.jwk", ".", "nats"} {
		t.Run(name, func(t *testing.T) {
			r := fill(t)
			s, err := r.Signer()
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(r.Dir(), strings.Replace(name, "KID", s.ID, 1))
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, info.Mode().Perm()|0o020|0o004); err != nil {
				t.Fatal(err)
			}
			fresh, err := Open(r.Dir(), false)
			if err == nil && name == "signing/state.json" { // read, and refused, on use
				_, err = fresh.Signer()
			}
			if !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), "chmod") {
				t.Errorf("error %v, want ErrExposed and what to do", err)
			}
		})
	}
}

func TestAProcessGetsOnlyWhatItWasGiven(t *testing.T) {
	dir := t.TempDir()
	full := fill(t)
	b, err := os.ReadFile(filepath.Join(full.Dir(), feedPublicFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, feedPublicFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir, false)
	if _, err := r.FeedPublic(); err != nil {
		t.Errorf("FeedPublic: %v", err)
	}
	for name, ask := range map[string]func() error{
		"state.json":   func() error { _, err := r.Signer(); return err },
		"feed.jwk":     func() error { _, err := r.FeedSigner(); return err },
		"lineage.key":  func() error { _, err := r.LineageKey(); return err },
		"issuance.nk":  func() error { _, err := r.NkeySeed("issuance"); return err },
		"operator.jwk": func() error { _, err := r.Operator(); return err },
	} {
		if err := ask(); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v, want ErrNoKey naming the file", name, err)
		}
	}
	if len(r.Public()) != 0 {
		t.Error("Public is not empty")
	}
	if _, err := Open(filepath.Join(dir, "none"), false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	for _, user := range []string{"", "../x", "a/b", "a b", ".x"} {
		if _, err := full.NkeySeed(user); !errors.Is(err, ErrNoKey) {
			t.Errorf("user %q: %v", user, err)
		}
	}
}

func TestRotation(t *testing.T) {
	a := fill(t)
	b := open(t, a.Dir(), false) // as rotation and issuance are two processes
	first, err := a.Signer()
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(signs string, verify ...string) {
		t.Helper()
		for _, r := range []*Ring{a, b} {
			s, err := r.Signer()
			must(err)
			if s.ID != signs {
				t.Errorf("%s signs, want %s", s.ID, signs)
			}
			var got []string
			for _, k := range r.Public() {
				got = append(got, k.ID)
			}
			if strings.Join(got, " ") != strings.Join(verify, " ") {
				t.Errorf("published %v, want %v", got, verify)
			}
		}
		files, err := filepath.Glob(a.signingPath("*"))
		must(err)
		if len(files) != len(verify) {
			t.Errorf("%d key files, want %d", len(files), len(verify))
		}
	}
	check(first.ID, first.ID)
	k2, err := a.Prepare("r1")
	must(err)
	for _, r := range []*Ring{a, b} {
		again, err := r.Prepare("r1")
		must(err)
		other, err := r.Prepare("r2")
		must(err)
		if again.ID != k2.ID || other.ID != k2.ID {
			t.Errorf("Prepare made %s and %s beside %s", again.ID, other.ID, k2.ID)
		}
	}
	check(first.ID, first.ID, k2.ID)
	must(b.Activate(k2.ID))
	must(a.Activate(k2.ID))
	check(k2.ID, k2.ID, first.ID)
	if again, err := a.Prepare("r1"); err != nil || again.ID != k2.ID {
		t.Errorf("Prepare of an active rotation = %s, %v", again.ID, err)
	}
	if err := a.Activate(first.ID); !errors.Is(err, ErrState) {
		t.Errorf("going back: %v", err)
	}
	if err := a.Retire(k2.ID); !errors.Is(err, ErrState) {
		t.Errorf("retiring the signer: %v", err)
	}
	if err := a.Activate("nobody"); !errors.Is(err, ErrNoKey) {
		t.Errorf("activating an unknown key: %v", err)
	}
	must(b.Retire(first.ID))
	must(a.Retire(first.ID))
	check(k2.ID, k2.ID)
	k3, err := b.Prepare("r3")
	must(err)
	must(b.Activate(k3.ID))
	must(b.Retire(k2.ID))
	if _, err := a.Prepare("r1"); !errors.Is(err, ErrState) {
		t.Errorf("Prepare of a retired rotation: %v", err)
	}
	check(k3.ID, k3.ID)
	js, err := a.JWKS()
	must(err)
	var set jose.JSONWebKeySet
	must(json.Unmarshal(js, &set))
	if len(set.Keys) != 1 || !set.Keys[0].IsPublic() || set.Keys[0].KeyID != k3.ID || bytes.Contains(js, []byte(`"d"`)) {
		t.Errorf("JWKS = %s", js)
	}
}

// A crash after the key file and before the state leaves a file that goes.
func TestLeftOverKeyFilesGo(t *testing.T) {
	r := fill(t)
	j, err := newES256()
	if err != nil {
		t.Fatal(err)
	}
	if err := storeJWK(r.signingPath(j.KeyID), j, true); err != nil {
		t.Fatal(err)
	}
	open(t, r.Dir(), true)
	if _, err := os.Stat(r.signingPath(j.KeyID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the left-over key is still there: %v", err)
	}
	if _, err := r.Signer(); err != nil {
		t.Error(err)
	}
}

func TestManyRingsOnOneDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	const n = 8
	rings, kids, seeds := make([]*Ring, n), make([]string, n), make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r, err := Open(dir, true)
			if err != nil {
				t.Error(err)
				return
			}
			rings[i] = r
			k, err := r.Prepare("only")
			if err != nil {
				t.Error(err)
				return
			}
			kids[i] = k.ID
			seed, err := r.NkeySeed("bus")
			if err != nil {
				t.Error(err)
			}
			seeds[i] = string(seed)
			if err := r.Activate(k.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		if t.Failed() || kids[i] != kids[0] || seeds[i] != seeds[0] {
			t.Fatalf("ring %d got the key %s, not %s", i, kids[i], kids[0])
		}
		if s, err := rings[i].Signer(); err != nil || s.ID != kids[0] {
			t.Errorf("ring %d signs with %s: %v", i, s.ID, err)
		}
		if len(rings[i].Public()) != 2 {
			t.Errorf("ring %d publishes %d keys, want 2", i, len(rings[i].Public()))
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, tc := range []struct {
		file string
		ask  func(*Ring) error
	}{
		{"feed.jwk", func(r *Ring) error { _, err := r.FeedSigner(); return err }},
		{"feed.pub.jwk", func(r *Ring) error { _, err := r.FeedPublic(); return err }},
		{"lineage.key", func(r *Ring) error { _, err := r.LineageKey(); return err }},
		{"operator.jwk", func(r *Ring) error { _, err := r.Operator(); return err }},
		{"signing/state.json", func(r *Ring) error { _, err := r.Signer(); return err }},
		{"nats/issuance.nk", func(r *Ring) error { _, err := r.NkeySeed("issuance"); return err }},
		{"nats/issuance.pub", func(r *Ring) error { _, err := r.NkeyPublic("issuance"); return err }},
	} {
		r := fill(t)
		for _, text := range []string{"", "{}", "TOPSECRET", `{"active":"../../x"}`, `{"kty":"oct","k":"VE9QU0VDUkVU"}`} {
			path := filepath.Join(r.Dir(), tc.file)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			err := tc.ask(open(t, r.Dir(), false))
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%s with %q: %v, want ErrDamaged", tc.file, text, err)
			}
			if strings.Contains(fmt.Sprint(err), "TOPSECRET") {
				t.Errorf("%s: the error shows what is in the file: %v", tc.file, err)
			}
		}
	}
	// A public key where a private one belongs.
	r := fill(t)
	b, err := os.ReadFile(filepath.Join(r.Dir(), feedPublicFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.Dir(), feedFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.FeedSigner(); !errors.Is(err, ErrDamaged) {
		t.Errorf("public key as private: %v", err)
	}
}
