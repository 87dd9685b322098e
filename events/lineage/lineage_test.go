package lineage

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, ok := range map[string]bool{
		"AAAAAAAAAAAAAAAA": true, "-_-_-_-_-_-_-_-_": true, "abcdefghijklmnop": true,
		"": false, "AAAA": false, "AAAAAAAAAAAAAAAAA": false, "AAAAAAAAAAAAAA==": false, "AAAAAAAAAAAAAAA=": false,
		"AAAAAAAAAAAAAAA+": false, "AAAAAAAAAAAAAAA/": false, "AAAAAAAAAAAAAAA ": false, "AAAAAAAAAAAAAAA\n": false,
		"\nAAAAAAAAAAAAAAA": false, "AAAAAAAA\r\nAAAAAA": false, "AAAAAAAAAAAAAAé": false, "AAAAAAAAAAAAAAA\x00": false,
	} {
		h, err := Parse(in)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrHandle) {
			t.Errorf("%q: %v", in, err)
		}
		if ok && h.String() != in {
			t.Errorf("%q comes back as %q", in, h)
		}
	}
	if _, err := Parse(strings.Repeat("x", 1000)); err == nil || len(err.Error()) > 200 {
		t.Errorf("long text: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("AAAAAAAAAAAAAAAA")
	f.Add("AAAAAAAAAAAAAA\n=")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Parse(s)
		if err != nil {
			if h != (Handle{}) {
				t.Fatalf("%q: %v beside an error", s, h)
			}
			return
		}
		if h.String() != s {
			t.Fatalf("%q is not the canonical form of %v", s, h)
		}
		b, err := json.Marshal(h)
		if err != nil || !bytes.Equal(b, []byte(`"`+s+`"`)) {
			t.Fatalf("JSON of %q: %s, %v", s, b, err)
		}
		var back Handle
		if err := json.Unmarshal(b, &back); err != nil || back != h {
			t.Fatalf("%s: %v, %v", b, back, err)
		}
	})
}

func TestNamer(t *testing.T) {
	if _, err := NewNamer(make([]byte, 31)); err == nil {
		t.Error("a short key is taken")
	}
	key := bytes.Repeat([]byte{7}, 32)
	n, err := NewNamer(key)
	if err != nil {
		t.Fatal(err)
	}
	key[0] = 0 // the namer keeps its own copy
	m, err := NewNamer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Handle]string{}
	for _, k := range Kinds {
		for _, tenant := range []string{"", "acme", "globex"} {
			for _, id := range []string{"a", "b", "acme"} {
				h, what := n.Name(k, tenant, id), string(k)+" "+tenant+" "+id
				if h != m.Name(k, tenant, id) {
					t.Errorf("%s: not deterministic", what)
				}
				if other, twice := seen[h]; twice {
					t.Errorf("%s and %s share a handle", what, other)
				}
				seen[h] = what
			}
		}
	}
	other, err := NewNamer(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if other.Name(KindTenant, "acme", "acme") == n.Name(KindTenant, "acme", "acme") {
		t.Error("the key makes no difference")
	}
	if got := n.Name(KindIdentity, "acme", "agent-7").String(); len(got) != 16 {
		t.Errorf("handle %q", got)
	}
}
