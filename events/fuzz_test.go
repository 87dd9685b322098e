package events

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
)

// seeds adds every example and every damaged event of the tables.
func seeds(f *testing.F) {
	f.Helper()
	examples(f, "valid-", func(_ string, raw []byte) { f.Add(raw) })
	examples(f, "invalid-", func(name string, raw []byte) {
		var x invalidExample
		if err := json.Unmarshal(raw, &x); err != nil {
			f.Fatalf("%s: %v", name, err)
		}
		f.Add(x.text())
	})
	for _, s := range []string{
		base, add(`"Tenant":"globex"`), add(`"tenant":"globex"`), with(`"1.0"`, `"0.3"`), add(`"data_base64":"e30="`),
		with(`"data":{"owner":"jane"}`, `"data_base64":"eyJvd25lciI6ImphbmUifQ=="`), add(`"\u0074enant":"x"`), "", "null", "[]", `{"a":`,
	} {
		f.Add([]byte(s))
	}
}

// agree demands that the SDK's lax reader, where it reads raw at all, names the same
// sender, tenant and type as the strict one.
func agree(t *testing.T, raw []byte, e Event) {
	t.Helper()
	var lax event.Event
	if err := json.Unmarshal(raw, &lax); err != nil {
		return
	}
	if lax.ID() != e.ID() || lax.Source() != e.Source() || lax.Type() != e.Type() || lax.Subject() != e.Subject() {
		t.Errorf("the SDK reads another event:\n%s\n%s", lax, e)
	}
	if !lax.Time().Equal(e.Time()) {
		t.Errorf("the SDK reads time %s, we read %s", lax.Time(), e.Time())
	}
	if tenant, _ := lax.Extensions()[ExtTenant].(string); tenant != Tenant(e) {
		t.Errorf("the SDK reads tenant %q, we read %q", tenant, Tenant(e))
	}
	if len(lax.Extensions()) != len(e.Extensions()) {
		t.Errorf("the SDK reads extensions %v, we read %v", lax.Extensions(), e.Extensions())
	}
}

func FuzzDecode(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		e, err := Decode(raw)
		if !bytes.Equal(before, raw) {
			t.Fatal("Decode changed its input")
		}
		if err != nil {
			if Code(err) == "internal" {
				t.Fatalf("error without a name: %v", err)
			}
			return
		}
		agree(t, raw, e)
		coded, err := Encode(e)
		if err != nil {
			t.Fatalf("cannot encode what was decoded: %v", err)
		}
		back, err := Decode(coded)
		if err != nil {
			t.Fatalf("cannot decode what was encoded: %v\n%s", err, coded)
		}
		agree(t, coded, e)
		again, err := Encode(back)
		if err != nil || !bytes.Equal(coded, again) {
			t.Fatalf("encoding is not canonical (%v):\n%s\n%s", err, coded, again)
		}
	})
}

func FuzzValidate(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		received, receiveErr := Receive(raw, "acme")
		if receiveErr != nil && Code(receiveErr) == "internal" {
			t.Fatalf("error without a name: %v", receiveErr)
		}
		if receiveErr == nil {
			if err := Validate(received); err != nil {
				t.Fatalf("received what is not valid: %v", err)
			}
			if Tenant(received) != "acme" {
				t.Fatalf("received an event of tenant %q for acme", Tenant(received))
			}
		}
		e, err := Decode(raw)
		if err != nil {
			return
		}
		if err := Validate(e); err != nil {
			if Code(err) == "internal" {
				t.Fatalf("error without a name: %v", err)
			}
			return
		}
		if _, err := Subject(e); err != nil {
			t.Fatalf("a valid event has no subject: %v", err)
		}
		info, _ := Lookup(e.Type())
		p := info.New()
		if err := json.Unmarshal(e.Data(), p); err != nil {
			t.Fatalf("a valid event has no payload: %v", err)
		}
		if p.Entity() != e.Subject() {
			t.Fatalf("subject %q is not the entity %q", e.Subject(), p.Entity())
		}
	})
}
