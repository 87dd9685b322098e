package events

import "errors"

// What can be wrong with an event. Every decoder error wraps one of these, so
// that a caller can name the reason without reading text. Code gives the name.
var (
	ErrMalformed       = errors.New("malformed JSON")
	ErrDuplicateMember = errors.New("duplicate or case-variant member")
	ErrTooLarge        = errors.New("event larger than 64 KiB")
	ErrContentType     = errors.New("wrong content type")
	ErrEnvelope        = errors.New("envelope violates CloudEvents 1.0")
	ErrUnknownType     = errors.New("unknown event type")
	ErrSchema          = errors.New("data violates its schema")
	ErrBadTenant       = errors.New("invalid tenant")
	ErrWrongTenant     = errors.New("event names another tenant than its sender's")
	ErrClockSkew       = errors.New("event time is too far in the future")
	ErrHeaders         = errors.New("doubled or contradicting message headers")
)

// Code is the stable machine name of a decoder error, such as "schema_violation";
// "internal" when err wraps none of the above.
func Code(err error) string {
	for _, c := range []struct {
		err  error
		code string
	}{
		{ErrMalformed, "malformed_json"},
		{ErrDuplicateMember, "duplicate_member"},
		{ErrTooLarge, "too_large"},
		{ErrContentType, "wrong_content_type"},
		{ErrEnvelope, "invalid_envelope"},
		{ErrUnknownType, "unknown_type"},
		{ErrSchema, "schema_violation"},
		{ErrBadTenant, "invalid_tenant"},
		{ErrWrongTenant, "wrong_tenant"},
		{ErrClockSkew, "clock_skew"},
		{ErrHeaders, "doubled_header"},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return "internal"
}
