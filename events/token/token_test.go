package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
)

func signers(t testing.TB) map[string]Signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s1, err := NewSigner("ec-1", ec)
	if err != nil {
		t.Fatal(err)
	}
	s2, err := NewSigner("ed-1", ed)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Signer{ES256: s1, EdDSA: s2}
}

const base = 1_800_000_000

func sample() Claims {
	c := Claims{
		Issuer: "https://issuer.example", Subject: "agent-7", Audience: Strings{"https://api.example"},
		ClientID: "agent-7", IssuedAt: base, Expires: base + 300, ID: "jti-1", Scope: "read write",
		Tenant: "acme", Task: "task-9",
		Confirm: &Confirm{JKT: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
		Actor:   &Actor{Subject: "agent-7", Tenant: "acme", Actor: &Actor{Subject: "orchestrator"}},
	}
	for i := range 8 {
		c.Lineage = append(c.Lineage, lineage.Handle{byte(i), 1, 2, 3})
	}
	return c
}

func expect() Expect {
	return Expect{Issuer: "https://issuer.example", Audience: "https://api.example",
		Now: time.Unix(base+10, 0), Leeway: 5 * time.Second}
}

func TestSignVerify(t *testing.T) {
	for alg, s := range signers(t) {
		t.Run(alg, func(t *testing.T) {
			want := sample()
			raw, err := s.Sign(TypAccess, want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Verify(raw, NewKeySet(s.Key()), expect())
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	s := signers(t)[EdDSA]
	keys := NewKeySet(s.Key())
	for name, c := range map[string]struct {
		change func(*Claims, *Expect)
		want   error
	}{
		"other issuer":       {func(c *Claims, _ *Expect) { c.Issuer = "https://evil.example" }, ErrIssuer},
		"no issuer expected": {func(_ *Claims, e *Expect) { e.Issuer = "" }, ErrIssuer},
		"other audience":     {func(c *Claims, _ *Expect) { c.Audience = Strings{"a", "b"} }, ErrAudience},
		"second audience":    {func(c *Claims, _ *Expect) { c.Audience = append(c.Audience, "b") }, nil},
		"no audience wanted": {func(_ *Claims, e *Expect) { e.Audience = "" }, ErrAudience},
		"just alive":         {func(_ *Claims, e *Expect) { e.Now = time.Unix(base+300+5, -1) }, nil},
		"expired":            {func(_ *Claims, e *Expect) { e.Now = time.Unix(base+300+5, 0) }, ErrExpired},
		"nbf within leeway":  {func(c *Claims, _ *Expect) { c.NotBefore = base + 15 }, nil},
		"nbf ahead":          {func(c *Claims, _ *Expect) { c.NotBefore = base + 16 }, ErrNotYet},
		"iat ahead":          {func(_ *Claims, e *Expect) { e.Now = time.Unix(base-6, 0) }, ErrNotYet},
		"exp before iat":     {func(c *Claims, _ *Expect) { c.Expires = base }, ErrClaims},
		"no subject":         {func(c *Claims, _ *Expect) { c.Subject = "" }, ErrClaims},
		"no tenant":          {func(c *Claims, _ *Expect) { c.Tenant = "" }, ErrClaims},
		"no jti":             {func(c *Claims, _ *Expect) { c.ID = "" }, ErrClaims},
		"no audience":        {func(c *Claims, _ *Expect) { c.Audience = nil }, ErrClaims},
		"no lineage":         {func(c *Claims, _ *Expect) { c.Lineage = nil }, ErrLineage},
		"empty lineage":      {func(c *Claims, _ *Expect) { c.Lineage = []lineage.Handle{} }, ErrLineage},
		"lineage of 32":      {func(c *Claims, _ *Expect) { c.Lineage = make([]lineage.Handle, 32) }, nil},
		"lineage of 33":      {func(c *Claims, _ *Expect) { c.Lineage = make([]lineage.Handle, 33) }, ErrLineage},
		"empty cnf":          {func(c *Claims, _ *Expect) { c.Confirm = &Confirm{} }, ErrClaims},
	} {
		t.Run(name, func(t *testing.T) {
			claims, want := sample(), expect()
			c.change(&claims, &want)
			raw, err := s.Sign(TypAccess, claims)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(raw, keys, want); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestParseClaimsExactTypes(t *testing.T) {
	whole, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	with := func(name, value string) []byte {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(whole, &m); err != nil {
			t.Fatal(err)
		}
		m[name] = json.RawMessage(value)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	h := `"` + lineage.Handle{9}.String() + `"`
	for name, c := range map[string]struct {
		payload []byte
		want    error
	}{
		"as signed":          {whole, nil},
		"unknown claim":      {with("x", `{"a":[1,null]}`), nil},
		"case variant":       {with("EXP", `"never"`), nil},
		"duplicate exp":      {append(whole[:len(whole)-1:len(whole)-1], `,"exp":9999999999}`...), ErrClaims},
		"duplicate inside x": {with("x", `{"a":1,"a":2}`), ErrClaims},
		"two objects":        {append(whole[:len(whole):len(whole)], '{', '}'), ErrClaims},
		"trailing comma":     {append(whole[:len(whole)-1:len(whole)-1], ",}"...), ErrClaims},
		"not an object":      {[]byte(`[]`), ErrClaims},
		"null":               {[]byte(`null`), ErrClaims},
		"nothing":            {nil, ErrClaims},
		"bad UTF-8":          {with("sub", "\"a\xff\""), ErrClaims},
		"exp string":         {with("exp", `"1800000300"`), ErrClaims},
		"exp fraction":       {with("exp", `1800000300.5`), ErrClaims},
		"exp exponent":       {with("exp", `18e8`), ErrClaims},
		"exp null":           {with("exp", `null`), ErrClaims},
		"exp negative":       {with("exp", `-1`), ErrClaims},
		"exp huge":           {with("exp", `99999999999999999999`), ErrClaims},
		"nbf null":           {with("nbf", `null`), ErrClaims},
		"sub number":         {with("sub", `1`), ErrClaims},
		"aud number":         {with("aud", `1`), ErrClaims},
		"aud null":           {with("aud", `null`), ErrClaims},
		"aud empty":          {with("aud", `[]`), ErrClaims},
		"aud nested":         {with("aud", `[["a"]]`), ErrClaims},
		"aud array":          {with("aud", `["a","b"]`), nil},
		"cnf null":           {with("cnf", `null`), ErrClaims},
		"cnf empty":          {with("cnf", `{}`), ErrClaims},
		"cnf unknown":        {with("cnf", `{"jkt":"a","jwk":{}}`), ErrClaims},
		"cnf text":           {with("cnf", `"a"`), ErrClaims},
		"act text":           {with("act", `"a"`), ErrClaims},
		"lin null":           {with("lin", `null`), ErrLineage},
		"lin text":           {with("lin", h), ErrLineage},
		"lin one":            {with("lin", `[`+h+`]`), nil},
		"lin short":          {with("lin", `["AAAA"]`), ErrLineage},
		"lin long":           {with("lin", `["AAAAAAAAAAAAAAAAA"]`), ErrLineage},
		"lin padded":         {with("lin", `["AAAAAAAAAAAAAA=="]`), ErrLineage},
		"lin escaped":        {with("lin", `["\u0041AAAAAAAAAA"]`), ErrLineage},
		"lin newline":        {with("lin", `["AAAAAAAAAAAAAA\n"]`), ErrLineage},
		"lin number":         {with("lin", `[1]`), ErrLineage},
		"lin null element":   {with("lin", `[null]`), ErrLineage},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseClaims(c.payload); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	deep := `{"sub":"a"}`
	for range maxActors {
		deep = `{"sub":"a","act":` + deep + `}`
	}
	if _, err := ParseClaims(with("act", deep)); !errors.Is(err, ErrClaims) {
		t.Errorf("%d nested actors: got %v", maxActors+1, err)
	}
}

func TestStringsJSON(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Strings
		ok   bool
	}{
		{`"a"`, Strings{"a"}, true},
		{`["a","b"]`, Strings{"a", "b"}, true},
		{`[]`, Strings{}, true},
		{`null`, nil, false}, {`1`, nil, false}, {`[1]`, nil, false}, {`[null]`, nil, false}, {`{}`, nil, false},
	} {
		var got Strings
		err := got.UnmarshalJSON([]byte(c.in))
		if (err == nil) != c.ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, %v", c.in, got, err)
		}
	}
	for want, s := range map[string]Strings{`"a"`: {"a"}, `["a","b"]`: {"a", "b"}, `[]`: nil} {
		got, err := json.Marshal(s)
		if err != nil || string(got) != want {
			t.Errorf("%v: got %s, %v, want %s", s, got, err, want)
		}
	}
}
