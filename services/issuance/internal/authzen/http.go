package authzen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// badRequest is what is wrong with a request, for its sender.
type badRequest struct{ reason string }

func (e *badRequest) Error() string { return e.reason }

func bad(format string, args ...any) error { return &badRequest{fmt.Sprintf(format, args...)} }

// serve reads the body, opens a view and answers what do makes of both.
func (s *Server) serve(do func(context.Context, View, []byte) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		body, ok := read(w, r)
		if !ok {
			return
		}
		view, err := s.Open(ctx)
		if err != nil {
			s.unavailable(w, err)
			return
		}
		answer, err := do(ctx, view, body)
		if b, ok := errors.AsType[*badRequest](err); ok {
			service.Problem(w, http.StatusBadRequest, "bad_request", b.reason)
			return
		}
		if err != nil {
			s.unavailable(w, err)
			return
		}
		service.JSON(w, http.StatusOK, answer)
	})
}

// read is the body of a request whose content is plain JSON of bounded size and depth.
// It answers errors itself.
func read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || kind != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") || r.Header.Get("Content-Encoding") != "" {
		service.Problem(w, http.StatusUnsupportedMediaType, "unsupported_media_type", "send application/json in UTF-8, not encoded")
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		service.Problem(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body must be at most %d bytes", MaxBody))
		return nil, false
	}
	if err != nil {
		service.Problem(w, http.StatusBadRequest, "bad_request", "the body ended early")
		return nil, false
	}
	if deep(body) {
		service.Problem(w, http.StatusBadRequest, "bad_request", fmt.Sprintf("the body must not be nested deeper than %d", MaxDepth))
		return nil, false
	}
	return body, true
}

// deep reports whether the JSON text b nests deeper than MaxDepth. Of what is not JSON
// it may say anything; the decoder refuses that.
func deep(b []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

func (s *Server) unavailable(w http.ResponseWriter, err error) {
	s.Log.Error("no decision possible", zap.Error(err))
	w.Header().Set("Retry-After", "2")
	service.Problem(w, http.StatusServiceUnavailable, "unavailable", "no decision is possible now; refuse, and ask again in a few seconds")
}

// metadata answers section 9.2.2.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	base := strings.TrimSuffix(s.Issuer.String(), "/")
	doc := map[string]string{"policy_decision_point": s.Issuer.String()}
	for _, e := range endpoints {
		doc[e.key] = base + e.path
	}
	service.JSON(cached{w}, http.StatusOK, doc)
}

// cached lets the answer be kept for metadataAge.
type cached struct{ http.ResponseWriter }

func (c cached) WriteHeader(status int) {
	c.Header().Set("Cache-Control", metadataAge)
	c.ResponseWriter.WriteHeader(status)
}
