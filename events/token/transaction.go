package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// TypTransaction is the typ of a transaction token (draft-ietf-oauth-transaction-tokens).
const TypTransaction = "txntoken+jwt"

// maxContext bounds tctx and rctx, in bytes each.
const maxContext = 2 << 10

// Transaction is the claims of a transaction token: for calls inside one trust domain it
// says whose transaction goes on and how far, whoever forwards it. It travels in the
// header Txn-Token, beside what authenticates the caller, and is no credential by itself.
// It carries the lineage of the access token that began it, so it dies with that.
type Transaction struct {
	Issuer    string           `json:"iss"`
	Audience  string           `json:"aud"` // the trust domain
	IssuedAt  int64            `json:"iat"` // seconds since 1970
	Expires   int64            `json:"exp"`
	ID        string           `json:"jti"`
	Txn       string           `json:"txn"`    // the same for every token of one transaction
	Subject   string           `json:"sub"`    // tenant, "/" and identity that began it
	Scope     string           `json:"scope"`  // space delimited
	Requester string           `json:"req_wl"` // workload that asked for this token
	Tenant    string           `json:"tenant"` // of the subject
	Task      string           `json:"task,omitempty"`
	Facts     json.RawMessage  `json:"tctx,omitempty"` // of the transaction; never change
	Context   json.RawMessage  `json:"rctx,omitempty"` // of the request that began it
	Lineage   []lineage.Handle `json:"lin"`
}

// Identity is the subject's identity within its tenant.
func (t Transaction) Identity() string { return strings.TrimPrefix(t.Subject, t.Tenant+"/") }

// OpenTransaction reads a transaction token as strictly as an access token, without
// looking at issuer, audience and times.
func OpenTransaction(raw string, keys Keys) (Transaction, error) {
	payload, _, err := Open(raw, TypTransaction, keys)
	if err != nil {
		return Transaction{}, err
	}
	return ParseTransaction(payload)
}

// VerifyTransaction opens a transaction token and checks issuer, trust domain and times.
// It does not check the lineage; that is the guard's part.
//
// When the signature verified, the claims are returned even with an error, for records
// only.
func VerifyTransaction(raw string, keys Keys, want Expect) (Transaction, error) {
	t, err := OpenTransaction(raw, keys)
	if err != nil {
		return Transaction{}, err
	}
	return t, Claims{Issuer: t.Issuer, Audience: Strings{t.Audience}, IssuedAt: t.IssuedAt, Expires: t.Expires}.check(want)
}

// ParseTransaction reads the claims with exact types, by the rules of ParseClaims.
// Required are all but task, tctx and rctx.
func ParseTransaction(payload []byte) (Transaction, error) {
	var t Transaction
	err := object(reader(payload), t.member, true)
	if err != nil {
		if errors.Is(err, ErrLineage) {
			return Transaction{}, fmt.Errorf("read transaction: %w", err)
		}
		return Transaction{}, fmt.Errorf("read transaction: %w: %w", ErrClaims, err)
	}
	switch {
	case t.Issuer == "", t.Audience == "", t.ID == "", t.Txn == "", t.Scope == "", t.Requester == "", t.Tenant == "":
		return Transaction{}, fmt.Errorf("read transaction: %w: iss, aud, jti, txn, scope, req_wl and tenant are required", ErrClaims)
	case len(t.Subject) <= len(t.Tenant)+1 || !strings.HasPrefix(t.Subject, t.Tenant+"/"):
		return Transaction{}, fmt.Errorf("read transaction: %w: sub must be tenant/identity", ErrClaims)
	case t.IssuedAt <= 0, t.Expires <= t.IssuedAt:
		return Transaction{}, fmt.Errorf("read transaction: %w: want 0 < iat < exp", ErrClaims)
	case len(t.Lineage) == 0:
		return Transaction{}, fmt.Errorf("read transaction: %w", ErrLineage)
	}
	return t, nil
}

func (t *Transaction) member(d *jsontext.Decoder, name []byte) error {
	switch string(name) {
	case "iss":
		return text(d, &t.Issuer)
	case "aud":
		return text(d, &t.Audience)
	case "iat":
		return whole(d, &t.IssuedAt)
	case "exp":
		return whole(d, &t.Expires)
	case "jti":
		return text(d, &t.ID)
	case "txn":
		return text(d, &t.Txn)
	case "sub":
		return text(d, &t.Subject)
	case "scope":
		return text(d, &t.Scope)
	case "req_wl":
		return text(d, &t.Requester)
	case "tenant":
		return text(d, &t.Tenant)
	case "task":
		return text(d, &t.Task)
	case "tctx":
		return anyObject(d, &t.Facts)
	case "rctx":
		return anyObject(d, &t.Context)
	case "lin":
		return handles(d, &t.Lineage)
	}
	return d.SkipValue()
}

// ParseContext reads what becomes tctx or rctx: one JSON object of at most 2 KiB without
// doubled members at any depth, without white space.
func ParseContext(b []byte) (json.RawMessage, error) {
	var out json.RawMessage
	d := reader(b)
	err := anyObject(d, &out)
	if err == nil {
		if _, more := d.ReadToken(); more == nil {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read context: %w: %w", ErrClaims, err)
	}
	return out, nil
}

func anyObject(d *jsontext.Decoder, dst *json.RawMessage) error {
	v, err := d.ReadValue()
	switch {
	case err != nil:
		return err
	case v.Kind() != '{':
		return errors.New("not an object")
	case len(v) > maxContext:
		return fmt.Errorf("longer than %d bytes", maxContext)
	}
	v = v.Clone()
	if err := v.Compact(); err != nil { // numbers stay as they are written
		return err
	}
	*dst = json.RawMessage(v)
	return nil
}
