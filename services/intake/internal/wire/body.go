// Package wire reads what arrives over HTTP into event texts: bounded bodies, gzip,
// and the three modes of the CloudEvents HTTP binding 1.0.2 (binary, structured,
// batch). It decides nothing about events; that is the strict decoder's part. Only
// intake imports it.
package wire

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
)

// Errors of bodies, beside those of package events.
var (
	ErrBodySize = errors.New("body larger than allowed")
	ErrEncoding = errors.New("content encoding is unknown or corrupt")
	ErrTooMany  = errors.New("too many events in one request")
	ErrBroken   = errors.New("the body did not arrive whole")
)

// ReadBody reads a body of at most limit bytes, packed and unpacked. It unpacks gzip
// when Content-Encoding says so or, with sniff, when the body begins like gzip.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64, sniff bool) ([]byte, error) {
	encodings := r.Header.Values("Content-Encoding")
	if len(encodings) > 1 {
		return nil, fmt.Errorf("read body: %w: Content-Encoding", events.ErrHeaders)
	}
	packed := false
	if len(encodings) == 1 {
		switch strings.ToLower(strings.TrimSpace(encodings[0])) {
		case "gzip", "x-gzip":
			packed = true
		case "", "identity":
		default:
			return nil, fmt.Errorf("read body: %w: only gzip and identity are known", ErrEncoding)
		}
	}
	if r.ContentLength > limit {
		return nil, fmt.Errorf("read body: %w: %d bytes, at most %d", ErrBodySize, r.ContentLength, limit)
	}
	in := bufio.NewReader(http.MaxBytesReader(w, r.Body, limit))
	if magic, _ := in.Peek(2); sniff && string(magic) == "\x1f\x8b" {
		packed = true
	}
	if !packed {
		return readAll(in, limit, false)
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, bodyError(err, true)
	}
	return readAll(z, limit, true)
}

func readAll(in io.Reader, limit int64, packed bool) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, bodyError(err, packed)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read body: %w: more than %d bytes unpacked", ErrBodySize, limit)
	}
	return b, nil
}

// bodyError names why a body could not be read. A gzip stream that is cut off and a
// connection that broke look alike; both are the sender's to repeat.
func bodyError(err error, packed bool) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("read body: %w: more than %d bytes", ErrBodySize, tooLarge.Limit)
	}
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	if packed && (corrupt || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)) {
		return fmt.Errorf("read body: %w: %w", ErrEncoding, err)
	}
	return fmt.Errorf("read body: %w: %w", ErrBroken, err)
}
