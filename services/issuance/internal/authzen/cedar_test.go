package authzen

import (
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/stretchr/testify/require"
)

func TestRecord(t *testing.T) {
	type m = cedar.RecordMap
	rec, set := cedar.NewRecord, cedar.NewSet
	quarter, err := cedar.NewDecimal(125, -2)
	require.NoError(t, err)
	for text, want := range map[string]m{
		``:                              nil,
		`{}`:                            nil,
		`{"s":"x\u0001","b":true}`:      {"s": cedar.String("x\x01"), "b": cedar.True},
		`{"n":-7,"m":9007199254740993}`: {"n": cedar.Long(-7), "m": cedar.Long(9007199254740993)},
		`{"d":1.25}`:                    {"d": quarter},
		`{"a":null,"b":1}`:              {"b": cedar.Long(1)},
		`{"l":["b","a","b"]}`:           {"l": set(cedar.String("a"), cedar.String("b"))},
		`{"o":{"p":[[1],[2]]}}`:         {"o": rec(m{"p": set(set(cedar.Long(1)), set(cedar.Long(2)))})},
		`{"e":{"__entity":{"type":"A","id":"b"}}}`:      {"e": rec(m{"__entity": rec(m{"type": cedar.String("A"), "id": cedar.String("b")})})},
		`{"e":{"__extn":{"fn":"ip","arg":"10.0.0.1"}}}`: {"e": rec(m{"__extn": rec(m{"fn": cedar.String("ip"), "arg": cedar.String("10.0.0.1")})})},
	} {
		got, err := Record([]byte(text))
		require.NoError(t, err, text)
		require.True(t, got.Equal(rec(want)), "%s became %s", text, got.MarshalCedar())
	}
	for _, text := range []string{`[]`, `1`, `null`, `{"a":[null]}`, `{"a":1.23456}`, `{"a":1e3}`, `{"a":9223372036854775808}`, `{"a":{"b":[1e400]}}`} {
		_, err := Record([]byte(text))
		require.ErrorIs(t, err, ErrInexpressible, text)
	}
}
