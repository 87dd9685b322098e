package wire

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
)

func frame(flag byte, size int, body []byte) []byte {
	b := []byte{flag, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[1:], uint32(size))
	return append(b, body...)
}

func TestReadGRPC(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	var bomb bytes.Buffer
	z = gzip.NewWriter(&bomb)
	if _, err := z.Write(make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const limit = 100
	for name, tt := range map[string]struct {
		body                  []byte
		contentType, encoding string
		want                  int
		err                   error
	}{
		"plain":            {frame(0, 3, []byte("abc")), "application/grpc", "", 3, nil},
		"empty":            {frame(0, 0, nil), "application/grpc+proto", "", 0, nil},
		"packed":           {frame(1, packed.Len(), packed.Bytes()), "application/grpc", "gzip", 50, nil},
		"bomb":             {frame(1, bomb.Len(), bomb.Bytes()), "application/grpc", "gzip", 0, ErrBodySize},
		"large":            {frame(0, 101, make([]byte, 101)), "application/grpc", "", 0, ErrBodySize},
		"huge by its word": {frame(0, 1<<31, nil), "application/grpc", "", 0, ErrBodySize},
		"cut off":          {frame(0, 5, []byte("abc")), "application/grpc", "", 0, ErrBroken},
		"no frame":         {[]byte("abc"), "application/grpc", "", 0, ErrBroken},
		"corrupt gzip":     {frame(1, 3, []byte("abc")), "application/grpc", "gzip", 0, ErrEncoding},
		"cut-off gzip":     {frame(1, packed.Len()-9, packed.Bytes()[:packed.Len()-9]), "application/grpc", "gzip", 0, ErrEncoding},
		"unknown packing":  {frame(1, 3, []byte("abc")), "application/grpc", "zstd", 0, ErrEncoding},
		"odd flag":         {frame(2, 3, []byte("abc")), "application/grpc", "", 0, ErrEncoding},
		"two messages":     {append(frame(0, 1, []byte("a")), frame(0, 1, []byte("b"))...), "application/grpc", "", 0, events.ErrMalformed},
		"other type":       {frame(0, 0, nil), "application/grpc-web", "", 0, events.ErrContentType},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(tt.body))
		r.ProtoMajor = 2
		r.Header.Set("Content-Type", tt.contentType)
		r.Header.Set("Grpc-Encoding", tt.encoding)
		b, err := ReadGRPC(httptest.NewRecorder(), r, limit)
		if !errors.Is(err, tt.err) || (tt.err == nil) != (err == nil) || len(b) != tt.want {
			t.Errorf("%s: %d bytes, error %v, want %d, %v", name, len(b), err, tt.want, tt.err)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	if _, err := ReadGRPC(httptest.NewRecorder(), r, limit); !errors.Is(err, ErrEncoding) {
		t.Errorf("HTTP/1.1: error %v", err)
	}
}
