package intake

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/wire"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"google.golang.org/protobuf/encoding/protowire"
)

// exportPath is the one call of OTLP's trace service over gRPC.
const exportPath = "POST /opentelemetry.proto.collector.trace.v1.TraceService/Export"

// Media types of OTLP over HTTP.
const (
	typeProtobuf = "application/x-protobuf"
	typeJSON     = "application/json"
)

// tracesHTTP is the door for OTLP over HTTP (OTLP specification 1.x, OTLP/HTTP): the
// answer is an ExportTraceServiceResponse in the encoding of the request; in JSON it
// says what Result says, too.
func (s *server) tracesHTTP(a adapter.Adapter) door {
	return door{source: a.Name, take: func(w http.ResponseWriter, r *http.Request, from *sender) (batch, error) {
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != typeProtobuf && t != typeJSON {
			return batch{}, fmt.Errorf("read headers: %w: want %s or %s", events.ErrContentType, typeProtobuf, typeJSON)
		}
		body, err := wire.ReadBody(w, r, s.limit, true)
		if err != nil {
			return batch{}, err
		}
		return s.readAll(a, r, body, from)
	}, answer: func(w http.ResponseWriter, r *http.Request, out Result) {
		if !isProtobuf(r) {
			service.JSON(w, http.StatusOK, struct {
				PartialSuccess map[string]string `json:"partialSuccess,omitempty"`
				Result
			}{partial(out), out})
			return
		}
		protobufAnswer(w, http.StatusOK, exportResponse(out))
	}, problem: func(w http.ResponseWriter, r *http.Request, status int, code, detail string) {
		if !isProtobuf(r) {
			service.Problem(w, status, code, detail)
			return
		}
		protobufAnswer(w, status, rpcStatus(wire.GRPCCode(status), code+": "+detail))
	}}
}

// tracesGRPC is the door for OTLP over gRPC.
func (s *server) tracesGRPC(a adapter.Adapter) door {
	return door{source: a.Name, take: func(w http.ResponseWriter, r *http.Request, from *sender) (batch, error) {
		body, err := wire.ReadGRPC(w, r, s.limit)
		if err != nil {
			return batch{}, err
		}
		return s.readAll(a, r, body, from)
	}, answer: func(w http.ResponseWriter, _ *http.Request, out Result) {
		wire.AnswerGRPC(w, wire.GRPCOK, exportResponse(out), "")
	}, problem: func(w http.ResponseWriter, _ *http.Request, status int, code, detail string) {
		wire.AnswerGRPC(w, wire.GRPCCode(status), nil, code+": "+detail)
	}}
}

func isProtobuf(r *http.Request) bool {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && t == typeProtobuf
}

func protobufAnswer(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", typeProtobuf)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// why is the text for people about refused spans.
func why(out Result) string {
	return fmt.Sprintf("%d refused, the first: %s: %s", len(out.Refused), out.Refused[0].Code, out.Refused[0].Reason)
}

// partial is ExportTracePartialSuccess in JSON; nil when nothing was refused.
func partial(out Result) map[string]string {
	if len(out.Refused) == 0 {
		return nil
	}
	return map[string]string{"rejectedSpans": strconv.Itoa(len(out.Refused)), "errorMessage": why(out)}
}

// exportResponse encodes ExportTraceServiceResponse: partial_success = 1, in it
// rejected_spans = 1 and error_message = 2.
func exportResponse(out Result) []byte {
	if len(out.Refused) == 0 {
		return nil
	}
	var inner []byte
	inner = protowire.AppendTag(inner, 1, protowire.VarintType)
	inner = protowire.AppendVarint(inner, uint64(len(out.Refused)))
	inner = protowire.AppendTag(inner, 2, protowire.BytesType)
	inner = protowire.AppendString(inner, why(out))
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), inner)
}

// rpcStatus encodes google.rpc.Status: code = 1, message = 2.
func rpcStatus(code int, message string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(max(code, 0)))
	return protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), message)
}
