package events

import (
	"fmt"
	"mime"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// maxAttribute is the longest context attribute, in characters; maxExtensions the
// largest number of extension attributes. Both bound memory, not meaning.
const (
	maxAttribute  = 1024
	maxExtensions = 32
	maxName       = 64
)

// checkContext checks the attributes against CloudEvents 1.0 section 3 and our
// narrowing of it: printable ASCII, a known type, JSON data.
func checkContext(ec *event.EventContextV1) error {
	for _, a := range []struct{ name, value string }{
		{"id", ec.ID}, {"source", ec.Source.String()}, {"type", ec.Type},
	} {
		if a.value == "" {
			return fmt.Errorf("%w: %s is missing", ErrEnvelope, a.name)
		}
		if err := checkText(a.name, a.value); err != nil {
			return err
		}
	}
	if _, ok := byType[ec.Type]; !ok {
		return fmt.Errorf("%w: %q", ErrUnknownType, clip(ec.Type))
	}
	if ec.Subject != nil {
		if err := checkText("subject", *ec.Subject); err != nil {
			return err
		}
	}
	if ec.DataSchema != nil {
		if err := checkText("dataschema", ec.DataSchema.String()); err != nil {
			return err
		}
	}
	if ec.DataContentType != nil && *ec.DataContentType != event.ApplicationJSON {
		if err := checkMediaType(*ec.DataContentType); err != nil {
			return err
		}
	}
	if len(ec.Extensions) > maxExtensions {
		return fmt.Errorf("%w: more than %d extension attributes", ErrEnvelope, maxExtensions)
	}
	for name, value := range ec.Extensions {
		if err := checkName(name); err != nil {
			return err
		}
		if s, ok := value.(string); ok {
			if err := checkText(name, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkLanyard checks what Lanyard requires beyond CloudEvents 1.0.
func checkLanyard(ec *event.EventContextV1) error {
	if ec.Subject == nil {
		return fmt.Errorf("%w: subject is missing", ErrEnvelope)
	}
	if ec.Time == nil || ec.Time.IsZero() {
		return fmt.Errorf("%w: time is missing", ErrEnvelope)
	}
	if y := ec.Time.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Errorf("%w: time is outside the years 0 to 9999", ErrEnvelope)
	}
	tenant, ok := ec.Extensions[ExtTenant].(string)
	if !ok {
		return fmt.Errorf("%w: tenant is missing", ErrEnvelope)
	}
	if !ValidTenant(tenant) {
		return fmt.Errorf("%w: %q", ErrBadTenant, clip(tenant))
	}
	return nil
}

// checkText accepts 1 to maxAttribute characters of printable ASCII without a space
// at either end.
func checkText(name, s string) error {
	if s == "" {
		return fmt.Errorf("%w: %s is empty", ErrEnvelope, name)
	}
	if len(s) > maxAttribute {
		return fmt.Errorf("%w: %s is longer than %d characters", ErrEnvelope, name, maxAttribute)
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return fmt.Errorf("%w: %s holds a character outside printable ASCII", ErrEnvelope, name)
		}
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return fmt.Errorf("%w: %s begins or ends with a space", ErrEnvelope, name)
	}
	return nil
}

// checkName accepts attribute names: 1 to maxName characters of a-z and 0-9
// (CloudEvents 1.0 section 3.1). A name with capitals is a case variant, which
// lax decoders take for the attribute itself.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: attribute name has %d characters, want 1 to %d", ErrEnvelope, len(name), maxName)
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'A' && c <= 'Z' {
			return fmt.Errorf("%w: attribute %q is not in lower case", ErrDuplicateMember, clip(name))
		}
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("%w: attribute name %q holds a character other than a-z and 0-9", ErrEnvelope, clip(name))
		}
	}
	if name == event.DataContentEncodingKey {
		return fmt.Errorf("%w: datacontentencoding belongs to specversion 0.3", ErrEnvelope)
	}
	return nil
}

func checkMediaType(s string) error {
	if err := checkText("datacontenttype", s); err != nil {
		return err
	}
	mediaType, params, err := mime.ParseMediaType(s)
	if err != nil || mediaType != event.ApplicationJSON {
		return fmt.Errorf("%w: datacontenttype %q is not application/json", ErrContentType, clip(s))
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return fmt.Errorf("%w: charset %q is not utf-8", ErrContentType, clip(cs))
	}
	return nil
}

// parseTime reads an RFC 3339 timestamp in its one usual spelling. The reader of
// package time alone would also take a comma for the point and any offset. Leap
// seconds are refused, since Go has none.
func parseTime(s string) (time.Time, bool) {
	const form = "dddd-dd-ddTdd:dd:dd"
	if len(s) <= len(form) || !fits(s[:len(form)], form) {
		return time.Time{}, false
	}
	rest := s[len(form):]
	if rest[0] == '.' {
		n := 1
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		rest = rest[n:]
	}
	if rest != "Z" && (!fits(strings.Replace(rest, "-", "+", 1), "+dd:dd") || rest[1:3] > "23" || rest[4:6] > "59") {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return t.UTC(), err == nil
}

// fits reports whether s looks like form, where d stands for a digit.
func fits(s, form string) bool {
	if len(s) != len(form) {
		return false
	}
	for i := range len(s) {
		digit := s[i] >= '0' && s[i] <= '9'
		if form[i] == 'd' && !digit || form[i] != 'd' && s[i] != form[i] {
			return false
		}
	}
	return true
}

// clip bounds what an error repeats of its input.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
