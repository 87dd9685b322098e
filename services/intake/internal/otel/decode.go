package otel

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// maxDepth is how deep attribute values may nest; what lies deeper is left out.
const maxDepth = 16

// span is a span in either encoding.
type span struct {
	trace, id, parent string // lower-case hex
	name              string
	start             int64 // nanoseconds since 1970
	code              int64 // 2 is an error
	attrs, resource   neutral.Doc
	raw               []byte
	err               error // it could not be read
}

// protobuf reads an ExportTraceServiceRequest, which has the form of TracesData.
func protobuf(body []byte, limit int) ([]span, error) {
	var req tracev1.TracesData
	if err := proto.Unmarshal(body, &req); err != nil {
		return nil, fmt.Errorf("%w: not an ExportTraceServiceRequest: %w", events.ErrMalformed, err)
	}
	var out []span
	for _, rs := range req.GetResourceSpans() {
		resource := attributes(rs.GetResource().GetAttributes(), 0)
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				if len(out) == limit {
					return nil, tooMany(limit)
				}
				one := span{trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
					name: s.GetName(), start: int64(min(s.GetStartTimeUnixNano(), 1<<62)), code: int64(s.GetStatus().GetCode()), resource: resource}
				if size := proto.Size(s); size > neutral.MaxRecord {
					one.err = fmt.Errorf("%w: a span of %d bytes, at most %d are read", events.ErrTooLarge, size, neutral.MaxRecord)
				} else {
					one.attrs = attributes(s.GetAttributes(), 0)
				}
				raw, err := proto.Marshal(s)
				if err != nil {
					return nil, fmt.Errorf("%w: %w", events.ErrMalformed, err)
				}
				one.raw = raw
				out = append(out, one)
			}
		}
	}
	return out, nil
}

func tooMany(limit int) error {
	return fmt.Errorf("read spans: %w: at most %d per request", records.ErrTooMany, limit)
}

func attributes(list []*commonv1.KeyValue, depth int) neutral.Doc {
	d := make(neutral.Doc, len(list))
	for _, kv := range list {
		d[kv.GetKey()] = value(kv.GetValue(), depth)
	}
	return d
}

func value(v *commonv1.AnyValue, depth int) any {
	if depth > maxDepth {
		return nil
	}
	switch x := v.GetValue().(type) {
	case *commonv1.AnyValue_StringValue:
		return x.StringValue
	case *commonv1.AnyValue_BoolValue:
		return x.BoolValue
	case *commonv1.AnyValue_IntValue:
		return float64(x.IntValue)
	case *commonv1.AnyValue_DoubleValue:
		return x.DoubleValue
	case *commonv1.AnyValue_BytesValue:
		return base64.StdEncoding.EncodeToString(x.BytesValue)
	case *commonv1.AnyValue_ArrayValue:
		list := []any{}
		for _, e := range x.ArrayValue.GetValues() {
			list = append(list, value(e, depth+1))
		}
		return list
	case *commonv1.AnyValue_KvlistValue:
		return map[string]any(attributes(x.KvlistValue.GetValues(), depth+1))
	}
	return nil
}

// fromJSON reads an ExportTraceServiceRequest in the JSON encoding of OTLP, where ids
// are hex and 64-bit numbers are strings.
func fromJSON(body []byte, limit int) ([]span, error) {
	var req neutral.Doc
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, neutral.JSONError(err)
	}
	var out []span
	for _, rs := range both(req, "resourceSpans", "resource_spans") {
		resource := jsonAttributes(rs.Objects("resource", "attributes"), 0)
		for _, ss := range both(rs, "scopeSpans", "scope_spans") {
			for _, s := range ss.Objects("spans") {
				if len(out) == limit {
					return nil, tooMany(limit)
				}
				out = append(out, jsonSpan(s, resource))
			}
		}
	}
	return out, nil
}

func both(d neutral.Doc, names ...string) []neutral.Doc {
	for _, n := range names {
		if l := d.Objects(n); l != nil {
			return l
		}
	}
	return nil
}

func jsonSpan(s, resource neutral.Doc) span {
	one := span{trace: strings.ToLower(s.Or("traceId", "trace_id")), id: strings.ToLower(s.Or("spanId", "span_id")),
		parent: strings.ToLower(s.Or("parentSpanId", "parent_span_id")), name: s.Text("name"), resource: resource, code: s.Number("status", "code")}
	if s.Text("status", "code") == "STATUS_CODE_ERROR" {
		one.code = 2
	}
	if n, err := strconv.ParseUint(s.Or("startTimeUnixNano", "start_time_unix_nano"), 10, 62); err == nil {
		one.start = int64(n)
	}
	raw, err := json.Marshal(map[string]any(s), json.Deterministic(true))
	if err == nil {
		err = neutral.Size(raw)
	}
	if err != nil {
		one.err = err
		return one
	}
	one.raw, one.attrs = raw, jsonAttributes(s.Objects("attributes"), 0)
	return one
}

func jsonAttributes(list []neutral.Doc, depth int) neutral.Doc {
	d := make(neutral.Doc, len(list))
	for _, kv := range list {
		d[kv.Text("key")] = jsonValue(kv.Object("value"), depth)
	}
	return d
}

func jsonValue(v neutral.Doc, depth int) any {
	if depth > maxDepth {
		return nil
	}
	for _, kind := range valueKinds { // one of them is there
		x, ok := v[kind]
		if !ok {
			continue
		}
		switch kind {
		case "intValue", "int_value":
			if f, err := strconv.ParseFloat(neutral.Text(x), 64); err == nil {
				return f
			}
			return nil
		case "arrayValue", "array_value":
			list := []any{}
			for _, e := range v.Objects(kind, "values") {
				list = append(list, jsonValue(e, depth+1))
			}
			return list
		case "kvlistValue", "kvlist_value":
			return map[string]any(jsonAttributes(v.Objects(kind, "values"), depth+1))
		}
		return x
	}
	return nil
}

// valueKinds are the members of AnyValue, one of which is there. It is a read-only table.
var valueKinds = []string{"stringValue", "string_value", "boolValue", "bool_value", "intValue", "int_value", "doubleValue", "double_value",
	"arrayValue", "array_value", "kvlistValue", "kvlist_value", "bytesValue", "bytes_value"}
