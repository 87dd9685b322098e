package downstreamtest

import (
	"os"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// NATS is a nats-server in operator mode with a full resolver, with a system account and one account for products.
type NATS struct {
	Addr     string // host:port
	Account  string // public key of the products' account
	System   string // credentials of a user of the system account
	Operator string // seed
	account  nkeys.KeyPair
}

// NATSUser is a user of the products' account.
type NATSUser struct {
	Key   string // public
	Creds string
	pair  nkeys.KeyPair
}

// StartNATS starts the server; it ends with the test.
func StartNATS(t testing.TB) *NATS {
	t.Helper()
	operator, system := pair(t, nkeys.PrefixByteOperator), pair(t, nkeys.PrefixByteAccount)
	w := &NATS{account: pair(t, nkeys.PrefixByteAccount)}
	w.Account = public(t, w.account)
	seed, err := operator.Seed()
	check(t, err)
	w.Operator = string(seed)
	op := jwt.NewOperatorClaims(public(t, operator))
	op.SystemAccount = public(t, system)
	opText, err := op.Encode(operator)
	check(t, err)
	op, err = jwt.DecodeOperatorClaims(opText)
	check(t, err)

	dir, err := os.MkdirTemp("", "lanyard-nats")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	resolver, err := server.NewDirAccResolver(dir, 1000, time.Minute, server.NoDelete)
	check(t, err)
	for _, p := range []nkeys.KeyPair{system, w.account} {
		claims := jwt.NewAccountClaims(public(t, p))
		text, err := claims.Encode(operator)
		check(t, err)
		check(t, resolver.Store(claims.Subject, text))
	}
	s, err := server.NewServer(&server.Options{ServerName: "downstream", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		TrustedOperators: []*jwt.OperatorClaims{op}, SystemAccount: op.SystemAccount, AccountResolver: resolver})
	check(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not get ready")
	}
	w.Addr = s.Addr().String()
	w.System = newUser(t, system, pair(t, nkeys.PrefixByteUser)).Creds
	return w
}

// NewUser makes a user with a token.
func (w *NATS) NewUser(t testing.TB) NATSUser {
	t.Helper()
	return newUser(t, w.account, pair(t, nkeys.PrefixByteUser))
}

// Reissue makes a new token for the same key.
func (w *NATS) Reissue(t testing.TB, u NATSUser) NATSUser {
	t.Helper()
	return newUser(t, w.account, u.pair)
}

// Connect logs in.
func (u NATSUser) Connect(addr string, opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect("nats://"+addr, append(opts, nats.UserCredentialBytes([]byte(u.Creds)), nats.Timeout(10*time.Second))...)
}

func newUser(t testing.TB, account, key nkeys.KeyPair) NATSUser {
	t.Helper()
	claims := jwt.NewUserClaims(public(t, key))
	text, err := claims.Encode(account)
	check(t, err)
	seed, err := key.Seed()
	check(t, err)
	creds, err := jwt.FormatUserConfig(text, seed)
	check(t, err)
	return NATSUser{Key: claims.Subject, Creds: string(creds), pair: key}
}

func pair(t testing.TB, prefix nkeys.PrefixByte) nkeys.KeyPair {
	t.Helper()
	p, err := nkeys.CreatePair(prefix)
	check(t, err)
	return p
}

func public(t testing.TB, p nkeys.KeyPair) string {
	t.Helper()
	s, err := p.PublicKey()
	check(t, err)
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
