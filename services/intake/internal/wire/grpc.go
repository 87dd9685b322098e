package wire

import (
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
)

// Status codes of gRPC that intake answers with.
const (
	GRPCOK                = 0
	GRPCInvalidArgument   = 3
	GRPCPermissionDenied  = 7
	GRPCResourceExhausted = 8
	GRPCInternal          = 13
	GRPCUnavailable       = 14
	GRPCUnauthenticated   = 16
)

// ReadGRPC reads the one message of a unary gRPC call over HTTP/2 ("gRPC over HTTP2",
// Length-Prefixed-Message), packed or not, of at most limit bytes in both forms.
func ReadGRPC(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ProtoMajor != 2 {
		return nil, fmt.Errorf("read call: %w: gRPC takes HTTP/2", ErrEncoding)
	}
	if t := r.Header.Get("Content-Type"); t != "application/grpc" && t != "application/grpc+proto" {
		return nil, fmt.Errorf("read call: %w: want application/grpc", events.ErrContentType)
	}
	in := http.MaxBytesReader(w, r.Body, limit+5)
	var head [5]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, bodyError(err, false)
	}
	size := int64(binary.BigEndian.Uint32(head[1:]))
	if size > limit {
		return nil, fmt.Errorf("read call: %w: a message of %d bytes, at most %d", ErrBodySize, size, limit)
	}
	encoding := strings.ToLower(r.Header.Get("Grpc-Encoding"))
	packed := head[0] == 1
	if head[0] > 1 || packed && encoding != "gzip" {
		return nil, fmt.Errorf("read call: %w: only gzip and identity are known", ErrEncoding)
	}
	message := io.Reader(io.LimitReader(in, size))
	if packed {
		z, err := gzip.NewReader(message)
		if err != nil {
			return nil, bodyError(err, true)
		}
		message = z
	}
	b, err := readAll(message, limit, packed)
	if err != nil {
		return nil, err
	}
	if !packed && int64(len(b)) != size {
		return nil, fmt.Errorf("read call: %w: the message is cut off", ErrBroken)
	}
	if n, _ := in.Read(head[:1]); n != 0 {
		return nil, fmt.Errorf("read call: %w: something follows the message", events.ErrMalformed)
	}
	return b, nil
}

// AnswerGRPC answers a unary gRPC call: with message when code is GRPCOK, else with
// the code and a text for people.
func AnswerGRPC(w http.ResponseWriter, code int, message []byte, text string) {
	h := w.Header()
	h.Set("Content-Type", "application/grpc+proto")
	h.Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(code))
	if text != "" {
		h.Set(http.TrailerPrefix+"Grpc-Message", strings.ReplaceAll(url.QueryEscape(text), "+", "%20"))
	}
	w.WriteHeader(http.StatusOK)
	if code == GRPCOK {
		frame := make([]byte, 5, 5+len(message))
		binary.BigEndian.PutUint32(frame[1:], uint32(min(len(message), 1<<30)))
		_, _ = w.Write(append(frame, message...))
	}
}

// GRPCCode is the status code of gRPC that says what an HTTP status says.
func GRPCCode(status int) int {
	switch status {
	case http.StatusUnauthorized:
		return GRPCUnauthenticated
	case http.StatusForbidden:
		return GRPCPermissionDenied
	case http.StatusRequestEntityTooLarge:
		return GRPCResourceExhausted
	case http.StatusServiceUnavailable:
		return GRPCUnavailable
	}
	if status >= 500 {
		return GRPCInternal
	}
	return GRPCInvalidArgument
}
