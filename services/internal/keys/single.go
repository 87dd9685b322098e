package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	"github.com/nats-io/nkeys"
)

const (
	filePrivate os.FileMode = 0o600
	filePublic  os.FileMode = 0o644

	feedFile          = "feed.jwk"
	feedPublicFile    = "feed.pub.jwk"
	lineageFile       = "lineage.key"
	operatorFile      = "operator.jwk"
	operatorJWKSFile  = "operator.jwks.json"
	localIssuerFile   = "local-issuer.secret"
	lineageKeyBytes   = 32
	localSecretLength = 32
)

// FeedSigner signs kill entries and heartbeats (EdDSA). Only revocation holds it.
func (r *Ring) FeedSigner() (token.Signer, error) {
	j, err := loadJWK(r.path(feedFile), "EdDSA")
	if err != nil {
		return token.Signer{}, fmt.Errorf("read feed key: %w", err)
	}
	return signer(j)
}

// FeedPublic verifies them.
func (r *Ring) FeedPublic() (ed25519.PublicKey, error) {
	path := r.path(feedPublicFile)
	b, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read feed key: %w", err)
	}
	j, err := parseJWK(path, b, "EdDSA", false)
	if err != nil {
		return nil, fmt.Errorf("read feed key: %w", err)
	}
	return j.Key.(ed25519.PublicKey), nil // parseJWK has checked the type
}

// makeFeed makes the feed key, and its public half again when that is missing.
func (r *Ring) makeFeed() error {
	have, err := exists(r.path(feedFile))
	if err != nil {
		return err
	}
	var j jose.JSONWebKey
	if have {
		j, err = loadJWK(r.path(feedFile), "EdDSA")
	} else if j, err = newEd25519(); err == nil {
		err = storeJWK(r.path(feedFile), j, true)
	}
	if err != nil {
		return fmt.Errorf("make feed key: %w", err)
	}
	if have, err = exists(r.path(feedPublicFile)); err != nil || have {
		return err
	}
	return storeJWK(r.path(feedPublicFile), j, false)
}

// LineageKey makes handles. Only issuance and revocation hold it.
func (r *Ring) LineageKey() ([]byte, error) {
	b, err := readPrivate(r.path(lineageFile))
	if err != nil {
		return nil, fmt.Errorf("read lineage key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != lineageKeyBytes {
		return nil, fmt.Errorf("read lineage key: %s: %w: want %d bytes in hex", r.path(lineageFile), ErrDamaged, lineageKeyBytes)
	}
	return key, nil
}

func (r *Ring) makeLineage() error { return r.makeRandom(lineageFile, lineageKeyBytes) }

// makeRandom writes n random bytes in hex unless the file is there.
func (r *Ring) makeRandom(name string, n int) error {
	if have, err := exists(r.path(name)); err != nil || have {
		return err
	}
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	if err := write(r.path(name), []byte(hex.EncodeToString(b)+"\n"), filePrivate); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return nil
}

// Operator signs the first operator's assertions (ES256). Only the CLI holds it.
func (r *Ring) Operator() (token.Signer, error) {
	j, err := loadJWK(r.path(operatorFile), "ES256")
	if err != nil {
		return token.Signer{}, fmt.Errorf("read operator key: %w", err)
	}
	return signer(j)
}

// OperatorJWK is the operator's private key as a JWK, for the operator credential file.
func (r *Ring) OperatorJWK() (secret.Secret, error) {
	b, err := readPrivate(r.path(operatorFile))
	if err != nil {
		return secret.Secret{}, fmt.Errorf("read operator key: %w", err)
	}
	return secret.New(strings.TrimSpace(string(b))), nil
}

// OperatorJWKSPath is where the operator's public key is, for the trusted issuer's
// file:// URL.
func (r *Ring) OperatorJWKSPath() string { return r.path(operatorJWKSFile) }

func (r *Ring) makeOperator() error {
	have, err := exists(r.path(operatorFile))
	if err != nil {
		return err
	}
	var j jose.JSONWebKey
	if have {
		j, err = loadJWK(r.path(operatorFile), "ES256")
	} else if j, err = newES256(); err == nil {
		err = storeJWK(r.path(operatorFile), j, true)
	}
	if err != nil {
		return fmt.Errorf("make operator key: %w", err)
	}
	if have, err = exists(r.path(operatorJWKSFile)); err != nil || have {
		return err
	}
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{j.Public()}})
	if err != nil {
		return fmt.Errorf("make operator key: %w", err)
	}
	return write(r.path(operatorJWKSFile), append(b, '\n'), filePublic)
}

// LocalIssuerSecret is the client secret of the development OIDC issuer.
func (r *Ring) LocalIssuerSecret() (secret.Secret, error) {
	return secret.Read(r.path(localIssuerFile))
}

func (r *Ring) makeLocalIssuer() error { return r.makeRandom(localIssuerFile, localSecretLength) }

var userPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// NkeySeed is the seed of a NATS user, such as "issuance" or "guard-acme-web". A
// ring opened with create makes it when it is missing.
func (r *Ring) NkeySeed(user string) ([]byte, error) {
	if !userPattern.MatchString(user) {
		return nil, fmt.Errorf("read seed of NATS user %q: %w: want A-Z, a-z, 0-9, ., _ and -", user, ErrNoKey)
	}
	if r.create {
		if err := r.makeUser(user); err != nil {
			return nil, err
		}
	}
	path := r.path("nats", user+".nk")
	b, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("read seed of NATS user: %w", err)
	}
	seed := []byte(strings.TrimSpace(string(b)))
	if _, err := nkeys.FromSeed(seed); err != nil {
		return nil, fmt.Errorf("read seed of NATS user: %s: %w: not an nkey seed", path, ErrDamaged)
	}
	return seed, nil
}

// NkeyPublic is the public key of a NATS user, for the server. A ring opened with
// create makes the user when it is missing.
func (r *Ring) NkeyPublic(user string) (string, error) {
	if r.create {
		if _, err := r.NkeySeed(user); err != nil {
			return "", err
		}
	}
	if !userPattern.MatchString(user) {
		return "", fmt.Errorf("read key of NATS user %q: %w", user, ErrNoKey)
	}
	path := r.path("nats", user+".pub")
	b, err := readFile(path)
	if err != nil {
		return "", fmt.Errorf("read key of NATS user: %w", err)
	}
	key := strings.TrimSpace(string(b))
	if !nkeys.IsValidPublicUserKey(key) {
		return "", fmt.Errorf("read key of NATS user: %s: %w: not a public user nkey", path, ErrDamaged)
	}
	return key, nil
}

// Users are the NATS users that the ring has a public key of, sorted.
func (r *Ring) Users() ([]string, error) {
	entries, err := os.ReadDir(r.path("nats"))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list NATS users: %w", err)
	}
	var users []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".pub"); ok {
			users = append(users, name)
		}
	}
	slices.Sort(users)
	return users, nil
}

func (r *Ring) makeUser(user string) error {
	seedPath, pubPath := r.path("nats", user+".nk"), r.path("nats", user+".pub")
	if have, err := exists(pubPath); err != nil || have {
		return err // the public half is written last
	}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var kp nkeys.KeyPair
	if have, err := exists(seedPath); err != nil {
		return err
	} else if have {
		b, err := readPrivate(seedPath)
		if err != nil {
			return err
		}
		kp, err = nkeys.FromSeed([]byte(strings.TrimSpace(string(b))))
		if err != nil {
			return fmt.Errorf("make NATS user: %s: %w: not an nkey seed", seedPath, ErrDamaged)
		}
	} else {
		if kp, err = nkeys.CreateUser(); err != nil {
			return fmt.Errorf("make NATS user: %w", err)
		}
		seed, err := kp.Seed()
		if err != nil {
			return fmt.Errorf("make NATS user: %w", err)
		}
		if err := write(seedPath, append(seed, '\n'), filePrivate); err != nil {
			return fmt.Errorf("make NATS user: %w", err)
		}
	}
	pub, err := kp.PublicKey()
	if err != nil {
		return fmt.Errorf("make NATS user: %w", err)
	}
	if err := write(pubPath, []byte(pub+"\n"), filePublic); err != nil {
		return fmt.Errorf("make NATS user: %w", err)
	}
	return nil
}
