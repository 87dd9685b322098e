package token

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// maxActors bounds the nesting of "act".
const maxActors = lineage.Max

// maxText bounds the string claims that name things, in bytes.
const maxText = 2048

type header struct{ alg, kid, typ string }

// parseHeader reads a header that has exactly the members alg, kid and typ, each a
// non-empty string. So jwk, jku, x5u, x5c and crit are refused without a list of
// them (RFC 7515 section 4.1.11: what is critical and not understood is refused).
func parseHeader(b []byte) (header, error) {
	var h header
	err := object(reader(b), func(d *jsontext.Decoder, name []byte) error {
		var dst *string
		switch string(name) {
		case "alg":
			dst = &h.alg
		case "kid":
			dst = &h.kid
		case "typ":
			dst = &h.typ
		default:
			return fmt.Errorf("member %q", clip(string(name)))
		}
		return text(d, dst)
	}, true)
	if err != nil {
		return header{}, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	if h.alg == "" || h.kid == "" || h.typ == "" {
		return header{}, fmt.Errorf("%w: a member is missing or empty", ErrHeader)
	}
	return h, nil
}

// ParseClaims reads the claims of an access token with exact types. Unknown claims
// are ignored (RFC 7519 section 4); duplicate members, null where a value belongs,
// invalid UTF-8 and numbers that are not whole are refused. Required are iss, sub,
// aud, iat, exp, jti, tenant and lin.
func ParseClaims(payload []byte) (Claims, error) {
	var c Claims
	err := object(reader(payload), c.member, true)
	if err != nil {
		if errors.Is(err, ErrLineage) {
			return Claims{}, fmt.Errorf("read claims: %w", err)
		}
		return Claims{}, fmt.Errorf("read claims: %w: %w", ErrClaims, err)
	}
	switch {
	case c.Issuer == "", c.Subject == "", len(c.Audience) == 0, c.ID == "", c.Tenant == "":
		return Claims{}, fmt.Errorf("read claims: %w: iss, sub, aud, jti and tenant are required", ErrClaims)
	case c.IssuedAt <= 0, c.Expires <= c.IssuedAt:
		return Claims{}, fmt.Errorf("read claims: %w: want 0 < iat < exp", ErrClaims)
	case len(c.Lineage) == 0:
		return Claims{}, fmt.Errorf("read claims: %w", ErrLineage)
	}
	return c, nil
}

// member reads the value of one claim.
func (c *Claims) member(d *jsontext.Decoder, name []byte) error {
	switch string(name) {
	case "iss":
		return text(d, &c.Issuer)
	case "sub":
		return text(d, &c.Subject)
	case "aud":
		return audience(d, &c.Audience)
	case "client_id":
		return text(d, &c.ClientID)
	case "iat":
		return whole(d, &c.IssuedAt)
	case "nbf":
		return whole(d, &c.NotBefore)
	case "exp":
		return whole(d, &c.Expires)
	case "jti":
		return text(d, &c.ID)
	case "scope":
		return text(d, &c.Scope)
	case "tenant":
		return text(d, &c.Tenant)
	case "task":
		return text(d, &c.Task)
	case "lin":
		return handles(d, &c.Lineage)
	case "authorization_details":
		return details(d, &c.Details)
	case "cnf":
		c.Confirm = new(Confirm)
		return c.Confirm.read(d)
	case "act":
		c.Actor = new(Actor)
		return c.Actor.read(d, 1)
	}
	return d.SkipValue()
}

// read fails on a confirmation method that is not known: ignoring one (RFC 7800
// section 3.1 leaves that to the application) would turn a bound token into a
// bearer token.
func (c *Confirm) read(d *jsontext.Decoder) error {
	err := object(d, func(d *jsontext.Decoder, name []byte) error {
		switch string(name) {
		case "jkt":
			return text(d, &c.JKT)
		case "x5t#S256":
			return text(d, &c.X5TS)
		}
		return fmt.Errorf("unknown confirmation method %q", clip(string(name)))
	}, false)
	if err == nil && c.JKT == "" && c.X5TS == "" {
		err = errors.New("cnf without a confirmation method")
	}
	return err
}

func (a *Actor) read(d *jsontext.Decoder, depth int) error {
	if depth > maxActors {
		return fmt.Errorf("more than %d nested actors", maxActors)
	}
	return object(d, func(d *jsontext.Decoder, name []byte) error {
		switch string(name) {
		case "sub":
			return text(d, &a.Subject)
		case "tenant":
			return text(d, &a.Tenant)
		case "act":
			a.Actor = new(Actor)
			return a.Actor.read(d, depth+1)
		}
		return d.SkipValue()
	}, false)
}

func reader(b []byte) *jsontext.Decoder { return jsontext.NewDecoder(bytes.NewBuffer(b)) }

// object reads one JSON object and calls member for each name; member must read the
// value. With alone nothing but white space may follow the object.
func object(d *jsontext.Decoder, member func(d *jsontext.Decoder, name []byte) error, alone bool) error {
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != '{' {
		return errors.New("not an object")
	}
	for d.PeekKind() != '}' {
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		name, err := unquote(v)
		if err != nil {
			return err
		}
		if err := member(d, name); err != nil {
			return err
		}
	}
	if _, err = d.ReadToken(); err != nil || !alone {
		return err
	}
	if _, err = d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// unquote is the text of a JSON string, valid until the decoder reads on. Most have
// no escapes and are not copied.
func unquote(v jsontext.Value) ([]byte, error) {
	if v.Kind() != '"' {
		return nil, errors.New("not a string")
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], nil
	}
	return jsontext.AppendUnquote(nil, v)
}

func text(d *jsontext.Decoder, dst *string) error {
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	b, err := unquote(v)
	if err != nil {
		return err
	}
	if len(b) > maxText {
		return fmt.Errorf("string longer than %d bytes", maxText)
	}
	*dst = string(b)
	return nil
}

// whole reads a NumericDate (RFC 7519 section 2) that is a whole number of seconds.
func whole(d *jsontext.Decoder, dst *int64) error {
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	if v.Kind() != '0' {
		return errors.New("not a number")
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return errors.New("not a whole number of seconds")
	}
	*dst = n
	return nil
}

func audience(d *jsontext.Decoder, dst *Strings) error {
	if d.PeekKind() == '"' {
		*dst = make(Strings, 1)
		return text(d, &(*dst)[0])
	}
	return array(d, func() error {
		*dst = append(*dst, "")
		return text(d, &(*dst)[len(*dst)-1])
	})
}

func handles(d *jsontext.Decoder, dst *[]lineage.Handle) error {
	out := make([]lineage.Handle, 0, 16)
	err := array(d, func() error {
		if len(out) == lineage.Max {
			return fmt.Errorf("more than %d handles", lineage.Max)
		}
		v, err := d.ReadValue()
		if err != nil {
			return err
		}
		// A handle needs no escape, so its text form is quote, 16 characters, quote. The
		// decoder skips line ends, which a JSON string cannot hold.
		var h lineage.Handle
		if len(v) != 18 || v.Kind() != '"' {
			return errors.New("an element is not a handle")
		}
		if n, err := strict.Decode(h[:], v[1:17]); err != nil || n != len(h) {
			return errors.New("an element is not a handle")
		}
		out = append(out, h)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLineage, err)
	}
	*dst = out
	return nil
}

func array(d *jsontext.Decoder, element func() error) error {
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != '[' {
		return errors.New("not an array")
	}
	for d.PeekKind() != ']' {
		if err := element(); err != nil {
			return err
		}
	}
	_, err = d.ReadToken()
	return err
}
