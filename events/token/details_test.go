package token

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseDetails(t *testing.T) {
	// The example of RFC 9396 section 2.2 without its type's own members.
	got, err := ParseDetails([]byte(` [{"type":"customer_information","locations":["https://example.com/customers"],"actions":["read","write"],
		"datatypes":["contacts","photos"],"identifier":"account-14-32-32-3","privileges":["admin"]},{"type":"x"}] `))
	want := []Detail{{"customer_information", []string{"https://example.com/customers"}, []string{"read", "write"}, []string{"contacts", "photos"},
		"account-14-32-32-3", []string{"admin"}}, {Type: "x"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseDetails([]byte(`[]`)); err != nil || got == nil || len(got) != 0 {
		t.Errorf("empty: %v, %v", got, err)
	}
	for _, bad := range []string{
		``, `{}`, `null`, `"x"`, `[null]`, `["x"]`, `[{}]`, `[{"type":""}]`, `[{"type":7}]`, `[{"type":"x"}`, `[{"type":"x"}]]`, `[{"type":"x"}] x`,
		`[{"type":"x","type":"y"}]`, `[{"type":"x","instructedAmount":{"amount":"1"}}]`, `[{"type":"x","Actions":["a"]}]`,
		`[{"type":"x","actions":"a"}]`, `[{"type":"x","actions":[]}]`, `[{"type":"x","actions":[""]}]`, `[{"type":"x","actions":["a",1]}]`,
		`[{"type":"x","actions":null}]`, `[{"type":"x","identifier":""}]`, `[{"type":"x","identifier":["a"]}]`, "[{\"type\":\"\xff\"}]",
		`[{"type":"` + strings.Repeat("x", 257) + `"}]`, `[` + strings.Repeat(`{"type":"x"},`, 16) + `{"type":"x"}]`,
		`[{"type":"x","actions":[` + strings.Repeat(`"a",`, 32) + `"a"]}]`, `[{"type":"x"}` + strings.Repeat(" ", 4096) + `]`,
	} {
		if got, err := ParseDetails([]byte(bad)); !errors.Is(err, ErrDetails) || got != nil {
			t.Errorf("%.60q: %v, %v", bad, got, err)
		}
	}
}

// access is one thing that a detail may grant; "-" stands for a member that is absent.
type access struct{ kind, identifier, location, action, datatype, privilege string }

var universe = []string{"a", "b", "c", "-"}

// grants reports whether x grants a when an absent list means everything, or when it
// means nothing but what is granted without it.
func (x Detail) grants(a access, absentIsAll bool) bool {
	has := func(list []string, v string) bool {
		if len(list) == 0 {
			return absentIsAll || v == "-"
		}
		for _, e := range list {
			if e == v {
				return true
			}
		}
		return false
	}
	return x.Type == a.kind && x.Identifier == a.identifier && has(x.Locations, a.location) && has(x.Actions, a.action) &&
		has(x.DataTypes, a.datatype) && has(x.Privileges, a.privilege)
}

// TestNarrowingNeverWidens: whatever a covered detail grants, by either reading, one of
// those that cover it grants too.
func TestNarrowingNeverWidens(t *testing.T) {
	word := rapid.SampledFrom(universe[:3])
	lists := rapid.SliceOfNDistinct(word, 0, 3, rapid.ID[string])
	one := rapid.Custom(func(t *rapid.T) Detail {
		return Detail{Type: rapid.SampledFrom([]string{"p", "q"}).Draw(t, "type"), Identifier: rapid.SampledFrom([]string{"", "i"}).Draw(t, "identifier"),
			Locations: lists.Draw(t, "locations"), Actions: lists.Draw(t, "actions"), DataTypes: lists.Draw(t, "datatypes"), Privileges: lists.Draw(t, "privileges")}
	})
	rapid.Check(t, func(t *rapid.T) {
		parents, child := rapid.SliceOfN(one, 0, 3).Draw(t, "parents"), one.Draw(t, "child")
		if len(parents) > 0 && rapid.Bool().Draw(t, "near") { // most random pairs have nothing to do with each other
			child = parents[0]
			if len(child.Actions) > 1 {
				child.Actions = child.Actions[:1]
			}
		}
		if !Covered(child, parents) {
			return
		}
		for _, all := range []bool{true, false} {
			for _, l := range universe {
				for _, a := range universe {
					for _, d := range universe {
						for _, p := range universe {
							x := access{child.Type, child.Identifier, l, a, d, p}
							if !child.grants(x, all) {
								continue
							}
							granted := false
							for _, parent := range parents {
								granted = granted || parent.grants(x, all)
							}
							if !granted {
								t.Fatalf("%+v grants %+v, which %+v does not", child, x, parents)
							}
						}
					}
				}
			}
		}
	})
}

func TestDetailsInClaims(t *testing.T) {
	const head = `{"iss":"i","sub":"s","aud":"a","iat":1,"exp":2,"jti":"j","tenant":"t","lin":["AAAAAAAAAAAAAAAA"],"authorization_details":`
	c, err := ParseClaims([]byte(head + `[{"type":"x","actions":["a"]}]}`))
	if err != nil || !reflect.DeepEqual(c.Details, []Detail{{Type: "x", Actions: []string{"a"}}}) {
		t.Errorf("%+v, %v", c.Details, err)
	}
	for _, bad := range []string{`null}`, `{}}`, `[{"type":"x","more":1}]}`} {
		if _, err := ParseClaims([]byte(head + bad)); !errors.Is(err, ErrClaims) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// FuzzParseDetails: what is read can be written and read again, unchanged.
func FuzzParseDetails(f *testing.F) {
	f.Add([]byte(`[{"type":"x","locations":["https://a"],"actions":["read"],"identifier":"i"}]`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{"type":"x","type":"y"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseDetails(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxDetailsSize {
			return // escapes made it longer
		}
		again, err := ParseDetails(text)
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%s became %+v, %v", text, again, err)
		}
		for _, d := range got {
			if !d.Covers(d) {
				t.Fatalf("%+v does not cover itself", d)
			}
		}
	})
}
