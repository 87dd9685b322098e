package intake

import (
	"errors"
	"net/http"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/wire"
)

// Why an event in good order is refused nevertheless.
var (
	errNotAdmitted = errors.New("events of this type are stated by Lanyard's services only")
	errScope       = errors.New("the caller lacks a scope")
	errRequester   = errors.New("a revocation or the end of a task is asked for in one's own name")
)

// codes names every reason for a refusal, beside those of events.Code, and the HTTP
// status of a request that consists of it alone. It is a read-only table.
var codes = []struct {
	err    error
	code   string
	status int
}{
	{wire.ErrBodySize, "too_large", http.StatusRequestEntityTooLarge},
	{wire.ErrTooMany, "too_many", http.StatusRequestEntityTooLarge},
	{adapter.ErrTooMany, "too_many", http.StatusRequestEntityTooLarge},
	{adapter.ErrTime, "implausible_time", http.StatusUnprocessableEntity},
	{adapter.ErrNoMapping, "no_mapping", http.StatusUnprocessableEntity},
	{adapter.ErrNotStored, "object_not_fetched", http.StatusUnprocessableEntity},
	{wire.ErrEncoding, "bad_encoding", http.StatusBadRequest},
	{wire.ErrBroken, "incomplete_body", http.StatusBadRequest},
	{errNotAdmitted, "type_not_admitted", http.StatusForbidden},
	{errScope, "insufficient_scope", http.StatusForbidden},
	{errRequester, "wrong_requester", http.StatusForbidden},
	{events.ErrTooLarge, "", http.StatusRequestEntityTooLarge},
	{events.ErrContentType, "", http.StatusUnsupportedMediaType},
	{events.ErrWrongTenant, "", http.StatusForbidden},
	{events.ErrUnknownType, "", http.StatusUnprocessableEntity},
	{events.ErrSchema, "", http.StatusUnprocessableEntity},
	{events.ErrClockSkew, "", http.StatusUnprocessableEntity},
}

// code is the stable name of a refusal.
func code(err error) string {
	for _, c := range codes {
		if c.code != "" && errors.Is(err, c.err) {
			return c.code
		}
	}
	return events.Code(err)
}

// status is the HTTP status of a refusal, 400 unless the table says otherwise.
func status(err error) int {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.status
		}
	}
	if events.Code(err) == "internal" {
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}
