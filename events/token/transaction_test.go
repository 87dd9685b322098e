package token

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
)

func transaction() Transaction {
	return Transaction{Issuer: "https://id.example", Audience: "prod.example", IssuedAt: 1_700_000_000, Expires: 1_700_000_060, ID: "j", Txn: "t-1",
		Subject: "acme/bot/1", Scope: "read", Requester: "spiffe://prod.example/api", Tenant: "acme", Task: "task-1",
		Facts: json.RawMessage(`{"amount":{"n":1}}`), Context: json.RawMessage(`{"ip":"10.0.0.1"}`), Lineage: []lineage.Handle{{1}}}
}

func TestTransaction(t *testing.T) {
	s := signers(t)[ES256]
	want := transaction()
	raw, err := s.Sign(TypTransaction, want)
	if err != nil {
		t.Fatal(err)
	}
	keys := NewKeySet(s.Key())
	expect := Expect{Issuer: want.Issuer, Audience: want.Audience, Now: time.Unix(want.IssuedAt+1, 0)}
	if got, err := VerifyTransaction(raw, keys, expect); err != nil || !reflect.DeepEqual(got, want) || got.Identity() != "bot/1" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Verify(raw, keys, expect); !errors.Is(err, ErrType) {
		t.Errorf("as an access token: %v", err)
	}
	access, err := s.Sign(TypAccess, want)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyTransaction(access, keys, expect); !errors.Is(err, ErrType) {
		t.Errorf("an access token: %v", err)
	}
	for name, c := range map[string]struct {
		change func(*Expect)
		want   error
	}{
		"issuer":   {func(e *Expect) { e.Issuer = "https://other.example" }, ErrIssuer},
		"domain":   {func(e *Expect) { e.Audience = "test.example" }, ErrAudience},
		"no one":   {func(e *Expect) { e.Audience = "" }, ErrAudience},
		"too late": {func(e *Expect) { e.Now = time.Unix(want.Expires, 0) }, ErrExpired},
		"early":    {func(e *Expect) { e.Now = time.Unix(want.IssuedAt-1, 0) }, ErrNotYet},
	} {
		e := expect
		c.change(&e)
		if _, err := VerifyTransaction(raw, keys, e); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseTransactionRefuses(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"no txn":              func(c map[string]any) { delete(c, "txn") },
		"no scope":            func(c map[string]any) { delete(c, "scope") },
		"no req_wl":           func(c map[string]any) { delete(c, "req_wl") },
		"another's subject":   func(c map[string]any) { c["sub"] = "globex/bot" },
		"nobody's subject":    func(c map[string]any) { c["sub"] = "acme/" },
		"several audiences":   func(c map[string]any) { c["aud"] = []string{"a", "b"} },
		"no lineage":          func(c map[string]any) { delete(c, "lin") },
		"facts are no object": func(c map[string]any) { c["tctx"] = []int{1} },
		"a huge context":      func(c map[string]any) { c["rctx"] = map[string]string{"a": strings.Repeat("a", 2048)} },
		"a fraction":          func(c map[string]any) { c["exp"] = 1.5 },
	} {
		b, err := json.Marshal(transaction())
		if err != nil {
			t.Fatal(err)
		}
		var c map[string]any
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
		change(c)
		if b, err = json.Marshal(c); err != nil {
			t.Fatal(err)
		}
		if got, err := ParseTransaction(b); err == nil || !reflect.DeepEqual(got, Transaction{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestParseContext(t *testing.T) {
	if got, err := ParseContext([]byte(` { "b" : 12345678901234567890, "a" : { "x" : 1.0 } } `)); err != nil || string(got) != `{"b":12345678901234567890,"a":{"x":1.0}}` {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{``, `x`, `[]`, `null`, `"a"`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, `{} {}`, `{"a":"` + strings.Repeat("a", 2048) + `"}`, "{\"a\":\"\xff\"}"} {
		if got, err := ParseContext([]byte(bad)); !errors.Is(err, ErrClaims) || got != nil {
			t.Errorf("%.40q: %s, %v", bad, got, err)
		}
	}
}

// FuzzParseTransaction: what is read names a subject of its tenant and survives writing.
func FuzzParseTransaction(f *testing.F) {
	b, err := json.Marshal(transaction())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"iss":"i","txn":"t","sub":"a/b","tenant":"a","lin":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseTransaction(b)
		if err != nil {
			return
		}
		if got.Identity() == "" || got.Tenant+"/"+got.Identity() != got.Subject {
			t.Fatalf("subject %q of tenant %q", got.Subject, got.Tenant)
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseTransaction(text); err != nil || again.Subject != got.Subject || again.Txn != got.Txn || len(again.Lineage) != len(got.Lineage) {
			t.Fatalf("%s became %+v, %v", text, again, err)
		}
	})
}
