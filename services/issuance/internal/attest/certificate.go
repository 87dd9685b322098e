package attest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// What can be wrong with a certificate. The texts may be shown to the caller.
var (
	ErrNoCertificate = errors.New("the connection has no client certificate")
	ErrCertificate   = errors.New("the client certificate is not an X509-SVID of a workload")
	ErrUntrusted     = errors.New("the client certificate does not verify with its trust domain's bundle")
)

const maxChain = 10 // certificates

// VerifyCertificate checks the certificates that a client presented in a TLS
// handshake, leaf first, as an X509-SVID (its specification, sections 4 and 5): the
// trust domain of the leaf's SPIFFE ID says which bundle counts, never the system's
// authorities. That the client holds the leaf's key, the handshake has proven; it proves
// it afresh, so the age of the certificate does not count.
//
// The result has no ID, and the certificate's validity as IssuedAt and Expires. Errors
// wrap one of the errors of this package.
func (v *Verifier) VerifyCertificate(ctx context.Context, chain []*x509.Certificate) (Attested, error) {
	if len(chain) == 0 {
		return Attested{}, ErrNoCertificate
	}
	if len(chain) > maxChain {
		return Attested{}, fmt.Errorf("%w: more than %d certificates", ErrCertificate, maxChain)
	}
	leaf := chain[0]
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return Attested{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if _, err := workload(id.String()); err != nil {
		return Attested{}, err
	}
	if err := checkLeaf(leaf); err != nil {
		return Attested{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	d := v.domains[id.TrustDomain()]
	if d == nil {
		return Attested{}, ErrUnknownDomain
	}
	if err := d.verifyChain(ctx, chain, v.now()); err != nil {
		return Attested{}, err
	}
	return Attested{Issuer: d.id.IDString(), Subject: id.String(), IssuedAt: leaf.NotBefore, Expires: leaf.NotAfter}, nil
}

// verifyChain verifies with the bundle, which is read again when it does not know the
// authority.
func (d *domain) verifyChain(ctx context.Context, chain []*x509.Certificate, now time.Time) error {
	var refused error
	b, ok, err := d.bundle.get(ctx, (*bundle).refreshAfter, func(b *bundle) bool {
		if b.revoked {
			return true
		}
		_, _, refused = x509svid.Verify(chain, b.x509, x509svid.WithTime(now))
		_, unknown := errors.AsType[x509.UnknownAuthorityError](refused)
		return !unknown
	})
	switch {
	case ok && b.revoked:
		return ErrRevokedDomain
	case !ok && err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case refused == nil:
		return nil
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](refused); ok && invalid.Reason == x509.Expired {
		if now.Before(chain[0].NotBefore) {
			return fmt.Errorf("%w: %w", ErrNotYet, refused)
		}
		return fmt.Errorf("%w: %w", ErrExpired, refused)
	}
	return fmt.Errorf("%w: %w", ErrUntrusted, refused)
}

// checkLeaf applies what the X509-SVID specification asks of leaves besides the SPIFFE
// ID (section 4.1 and 4.3, 4.4), and of keys what is asked of those of key sets.
func checkLeaf(c *x509.Certificate) error {
	keyUsage := asn1.ObjectIdentifier{2, 5, 29, 15}
	critical := false
	for _, e := range c.Extensions {
		critical = critical || e.Id.Equal(keyUsage) && e.Critical
	}
	switch {
	case c.IsCA:
		return errors.New("it is a CA")
	case c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return errors.New("its key may sign certificates or CRLs")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0 || !critical:
		return errors.New("it lacks the critical key usage digitalSignature")
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny):
		return errors.New("its extended key usage is not for clients")
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return fmt.Errorf("its RSA key has fewer than %d bits", minRSABits)
		}
	case *ecdsa.PublicKey:
	default:
		return errors.New("its key is neither RSA nor ECDSA")
	}
	return nil
}
