package service

import (
	"encoding/json"
	"net/http"
)

// problem is an RFC 9457 problem detail with Lanyard's member code.
type problem struct {
	Type   string `json:"type"` // always "about:blank" (RFC 9457 section 4.2.1)
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`
}

// Problem answers with an RFC 9457 problem. code is a stable machine name such as
// "wrong_tenant"; detail is for people and must not hold anything the caller may
// not know.
func Problem(w http.ResponseWriter, status int, code, detail string) {
	body, err := json.Marshal(problem{"about:blank", http.StatusText(status), status, detail, code})
	if err != nil { // strings and a number always encode
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// JSON answers with v as JSON, not to be cached.
func JSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		Problem(w, http.StatusInternalServerError, "internal", "the answer could not be encoded")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
