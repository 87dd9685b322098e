package mapping

import (
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
)

// environment is what expressions may use: the record, CEL's standard functions, its
// string and optional libraries, and functions that reduce values as the built-in
// adapters do.
func environment(hash neutral.Hasher) (*cel.Env, error) {
	text := func(name string, f func(string) string) cel.EnvOption {
		return cel.Function(name, cel.Overload(name+"_dyn", []*cel.Type{cel.DynType}, cel.StringType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(f(textOf(v))) })))
	}
	return cel.NewEnv(
		cel.Variable("record", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("instance", cel.StringType),
		cel.Variable("tenant", cel.StringType),
		cel.OptionalTypes(),
		ext.Strings(ext.StringsMaxPrecision(32)),
		text("text", func(s string) string { return s }),
		text("family", neutral.Family),
		text("masked", neutral.Masked),
		text("hash", func(s string) string {
			if s == "" {
				return ""
			}
			return hash.Of(s)
		}),
		cel.Function("destinations", cel.Overload("destinations_dyn", []*cel.Type{cel.DynType}, cel.ListType(cel.StringType),
			cel.UnaryBinding(func(v ref.Val) ref.Val {
				return types.DefaultTypeAdapter.NativeToValue(hash.Reduce(raw(v)).Destinations)
			}))),
		cel.Function("args_hash", cel.Overload("args_hash_dyn", []*cel.Type{cel.DynType}, cel.StringType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(hash.Reduce(raw(v)).Hash) }))),
	)
}

// raw is v as JSON; of a string, the JSON it holds.
func raw(v ref.Val) []byte {
	b, err := json.Marshal(plain(v.Value()), json.Deterministic(true))
	if err != nil {
		return nil
	}
	return b
}

// plain makes maps with CEL keys JSON objects.
func plain(v any) any {
	switch x := v.(type) {
	case ref.Val:
		return plain(x.Value())
	case []ref.Val:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = plain(e)
		}
		return out
	case map[ref.Val]ref.Val:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[textOf(k)] = plain(e)
		}
		return out
	}
	return v
}

// textOf is a string, number, boolean or timestamp as text; of anything else nothing.
func textOf(v ref.Val) string {
	switch x := v.Value().(type) {
	case int64, uint64:
		return fmt.Sprint(x)
	case time.Time:
		return x.Format(time.RFC3339Nano)
	default:
		return neutral.Text(x)
	}
}

// target is a field of the neutral event: the types that an expression for it may have,
// and how its value gets there.
type target struct {
	types []*cel.Type
	set   func(*neutral.Record, ref.Val) error
}

func scalar(at func(*neutral.Record) *string) target {
	return target{[]*cel.Type{cel.StringType, cel.IntType, cel.UintType, cel.DoubleType}, func(r *neutral.Record, v ref.Val) error {
		switch v.(type) {
		case types.String, types.Int, types.Uint, types.Double, types.Null:
			*at(r) = textOf(v)
			return nil
		}
		return wrongType(v, "text or a number")
	}}
}

func wrongType(v ref.Val, want string) error {
	return fmt.Errorf("%w: the value is a %s, want %s", events.ErrSchema, v.Type().TypeName(), want)
}

func list(at func(*neutral.Record) *[]string) target {
	return target{[]*cel.Type{cel.ListType(cel.StringType), cel.ListType(cel.DynType), cel.StringType}, func(r *neutral.Record, v ref.Val) error {
		switch x := plain(v).(type) {
		case nil:
		case string:
			*at(r) = strings.Fields(x)
		case []string:
			*at(r) = x
		case []any:
			for _, e := range x {
				*at(r) = append(*at(r), neutral.Text(e))
			}
		default:
			return wrongType(v, "a list")
		}
		return nil
	}}
}

func boolean(at func(*neutral.Record) *bool) target {
	return target{[]*cel.Type{cel.BoolType, cel.StringType}, func(r *neutral.Record, v ref.Val) error {
		*at(r) = textOf(v) == "true"
		return nil
	}}
}

func number(at func(*neutral.Record) *int64) target {
	return target{[]*cel.Type{cel.IntType, cel.UintType, cel.DoubleType}, func(r *neutral.Record, v ref.Val) error {
		*at(r) = neutral.Doc{"n": textOf(v)}.Number("n")
		return nil
	}}
}

// oneOf takes a text of a closed set.
func oneOf[T ~string](at func(*neutral.Record) *T, values ...T) target {
	t := scalar(nil)
	t.set = func(r *neutral.Record, v ref.Val) error {
		s := T(strings.ToLower(textOf(v)))
		for _, x := range values {
			if s == x {
				*at(r) = s
				return nil
			}
		}
		if s == "" {
			return nil
		}
		return fmt.Errorf("%w: %.64q is none of %v", events.ErrSchema, string(s), values)
	}
	return t
}

var moment = []*cel.Type{cel.StringType, cel.TimestampType, cel.IntType, cel.DoubleType}

// targets are the fields that expressions may fill, by the names of the neutral event.
// It is a read-only table.
var targets = map[string]target{
	"id": scalar(func(r *neutral.Record) *string { return &r.ID }),
	"time": {moment, func(r *neutral.Record, v ref.Val) (err error) {
		r.Time, err = neutral.Time("time", textOf(v))
		return err
	}},
	"identity":           scalar(func(r *neutral.Record) *string { return &r.Identity }),
	"identity_tenant":    scalar(func(r *neutral.Record) *string { return &r.IdentityTenant }),
	"owner":              scalar(func(r *neutral.Record) *string { return &r.Owner }),
	"credential":         scalar(func(r *neutral.Record) *string { return &r.Credential }),
	"credential_version": scalar(func(r *neutral.Record) *string { return &r.CredentialVersion }),
	"jti":                scalar(func(r *neutral.Record) *string { return &r.JTI }),
	"cnf":                scalar(func(r *neutral.Record) *string { return &r.Confirmation }),
	"audience":           list(func(r *neutral.Record) *[]string { return &r.Audience }),
	"session":            scalar(func(r *neutral.Record) *string { return &r.Session }),
	"scopes":             list(func(r *neutral.Record) *[]string { return &r.Scopes }),
	"parent_scopes":      list(func(r *neutral.Record) *[]string { return &r.ParentScopes }),
	"source_asn":         scalar(func(r *neutral.Record) *string { return &r.SourceASN }),
	"source_country":     scalar(func(r *neutral.Record) *string { return &r.SourceCountry }),
	"source_service":     scalar(func(r *neutral.Record) *string { return &r.SourceService }),
	"vpce":               scalar(func(r *neutral.Record) *string { return &r.VPCEndpoint }),
	"user_agent":         scalar(func(r *neutral.Record) *string { return &r.UserAgent }),
	"tls_fp":             scalar(func(r *neutral.Record) *string { return &r.TLSFingerprint }),
	"workload":           scalar(func(r *neutral.Record) *string { return &r.Workload }),
	"workload_attested":  boolean(func(r *neutral.Record) *bool { return &r.WorkloadAttested }),
	"tool":               scalar(func(r *neutral.Record) *string { return &r.Tool }),
	"tool_args_dest":     list(func(r *neutral.Record) *[]string { return &r.ToolArgsDest }),
	"args_hash":          scalar(func(r *neutral.Record) *string { return &r.ArgsHash }),
	"task":               scalar(func(r *neutral.Record) *string { return &r.Task }),
	"destination":        scalar(func(r *neutral.Record) *string { return &r.Destination }),
	"action":             scalar(func(r *neutral.Record) *string { return &r.Action }),
	"resource":           scalar(func(r *neutral.Record) *string { return &r.Resource }),
	"resource_tenant":    scalar(func(r *neutral.Record) *string { return &r.ResourceTenant }),
	"target":             scalar(func(r *neutral.Record) *string { return &r.Target }),
	"minted_id":          scalar(func(r *neutral.Record) *string { return &r.MintedID }),
	"error":              scalar(func(r *neutral.Record) *string { return &r.Error }),
	"raw_ref":            scalar(func(r *neutral.Record) *string { return &r.RawRef }),
	"interactive":        boolean(func(r *neutral.Record) *bool { return &r.Interactive }),
	"bytes":              number(func(r *neutral.Record) *int64 { return &r.Bytes }),
	"count":              number(func(r *neutral.Record) *int64 { return &r.Count }),
	"source_ip": {scalar(nil).types, func(r *neutral.Record, v ref.Val) error {
		address, service := neutral.From(textOf(v))
		r.SourceIP = address
		if address == "" && r.SourceService == "" {
			r.SourceService = service
		}
		return nil
	}},
	"credential_exp": {moment, func(r *neutral.Record, v ref.Val) error {
		t, err := neutral.Time("credential_exp", textOf(v))
		if err == nil {
			r.CredentialExp = &t
		}
		return err
	}},
	"identity_kind": oneOf(func(r *neutral.Record) *events.IdentityKind { return &r.IdentityKind },
		events.KindAgent, events.KindServiceAccount, events.KindAPIKey, events.KindOAuthApp, events.KindWorkload),
	"action_class": oneOf(func(r *neutral.Record) *events.ActionClass { return &r.ActionClass },
		events.ClassRead, events.ClassWrite, events.ClassIAM, events.ClassSecret, events.ClassExec, events.ClassLog),
	"outcome": oneOf(func(r *neutral.Record) *events.Outcome { return &r.Outcome },
		events.OutcomeSuccess, events.OutcomeDenied, events.OutcomeThrottled, events.OutcomeError),
}
