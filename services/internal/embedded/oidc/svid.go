package oidc

import (
	"errors"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// TrustDomain is the one that the development CA vouches for. Its name ends in .local,
// which nobody can own (RFC 6762 section 3).
const TrustDomain = "lanyard.local"

// BundlePath is where the trust domain's bundle is below the issuer's URL.
const BundlePath = "/spiffe/bundle"

// openCA reads or makes the CA's key.
func (s *issuer) openCA() error {
	if s.SVIDKeyFile == "" {
		return nil
	}
	if s.SVIDKeyFile == s.KeyFile {
		return errors.New("it needs a key of its own")
	}
	key, err := loadKey(s.SVIDKeyFile)
	if err != nil {
		return err
	}
	if s.svid, err = token.NewSigner("", key); err != nil {
		return err
	}
	domain, err := spiffeid.TrustDomainFromString(TrustDomain)
	if err != nil {
		return err
	}
	b := spiffebundle.New(domain)
	b.SetRefreshHint(defaultTTL)
	if err := b.AddJWTAuthority(s.svid.ID, key.Public()); err != nil {
		return err
	}
	s.bundle, err = b.Marshal()
	return err
}

func (s *issuer) serveBundle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(s.bundle)
}

// serveSVID makes a JWT-SVID for any workload of the trust domain, marked as one of
// development.
func (s *issuer) serveSVID(w http.ResponseWriter, r *http.Request) {
	a, ok := s.read(w, r)
	if !ok {
		return
	}
	id, err := spiffeid.FromString(a.sub)
	if err != nil || id.TrustDomain().Name() != TrustDomain || id.Path() == "" {
		fail(w, http.StatusBadRequest, "invalid_request", "sub must be spiffe://"+TrustDomain+"/ and a path: this development CA speaks for no other trust domain")
		return
	}
	if text, ok := s.sign(w, s.svid, a, map[string]any{"lanyard_development_only": true}); ok {
		answer(w, http.StatusOK, map[string]any{"svid": text, "expires_in": int64(a.ttl.Seconds()), "lanyard_development_only": true})
	}
}
