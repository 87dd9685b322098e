package service_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/nats-io/nats-server/v2/server"
)

// certificate writes a self-signed certificate for 127.0.0.1 with this serial number.
func certificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string][]byte{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLSListeners(t *testing.T) {
	dir := t.TempDir()
	c := testConfig(t)
	c.Issuer.URL, c.Issuer.JWKS, c.Guard.Audience = "https://127.0.0.1:9", "", ""
	c.TLS.Cert, c.TLS.Key = certificate(t, dir, 1)
	r := startToys(t, service.RunOptions{Name: service.UserAll, Config: c.Complete(), Embed: embedded.Servers},
		func(env service.Env) (service.Service, error) {
			s, err := gamma(env)
			s.ClientCertificates = true
			return s, err
		})
	if !strings.HasPrefix(r.URL("revocation"), "https://") {
		t.Fatalf("URL %s", r.URL("revocation"))
	}
	serial := func() int64 {
		conn, err := tls.Dial("tcp", r.Addr("revocation"), &tls.Config{InsecureSkipVerify: true}) // it is the certificate we look at
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("serial %d", got)
	}
	asks := func(listener string) (asked bool) {
		conn, err := tls.Dial("tcp", r.Addr(listener), &tls.Config{InsecureSkipVerify: true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return &tls.Certificate{}, nil
			}})
		if err != nil {
			t.Fatalf("without a certificate at %s: %v", listener, err)
		}
		_ = conn.Close()
		return asked
	}
	if !asks("revocation") || asks("debug") {
		t.Error("a certificate is asked for by the service that wants it, and by no other")
	}
	h2 := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	answer, err := h2.Get(r.URL("debug") + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Errorf("served %s, want HTTP/2", answer.Proto)
	}
	resp, err := http.Get("http://" + r.Addr("debug") + "/livez")
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("plain HTTP was answered")
		}
	}
	if _, err := tls.Dial("tcp", r.Addr("revocation"), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	certificate(t, dir, 2)
	if err := os.Chtimes(c.TLS.Cert, time.Now(), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("after renewal the serial is %d", got)
	}
	if err := os.WriteFile(c.TLS.Cert, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("with a damaged file the serial is %d", got)
	}
}

// A real nats-server takes the configuration, speaks TLS, and tells the system user
// that it syncs every write.
func TestNATSConfOnAServer(t *testing.T) {
	dir := t.TempDir()
	ring, err := keys.Open(filepath.Join(dir, "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	users, err := service.WithKeys(service.Permissions(toyTopology(t), others), ring)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t, dir, 1)
	conf, err := service.NATSConf(service.NATSOptions{Listen: "127.0.0.1:-1", StoreDir: filepath.Join(dir, "js"), TLSCert: cert, TLSKey: key, TLSCA: cert,
		Monitor: "127.0.0.1:-1", Users: users})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, conf)
	}
	opts.NoLog, opts.NoSigs = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, monitor := range map[string]string{"by the system user": "", "by monitoring": "http://" + s.MonitorAddr().String()} {
		c := bus.Config{URL: "tls://" + s.Addr().String(), CAFile: cert, Name: "provision", NkeySeed: seedOf(t, ring, "provision"), MonitorURL: monitor}
		if monitor == "" {
			c.SystemSeed = seedOf(t, ring, "system")
		}
		conn, err := bus.Connect(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := bus.Provision(ctx, conn, bus.Options{}); err != nil {
			t.Error(err)
		}
		if err := conn.SyncAlways(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLoggerWritesJSONToFiles(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log, err := service.NewLogger(f, "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hello")
	log.Debug("quiet")
	b, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Contains(b, []byte(`"message":"hello"`)) || bytes.Contains(b, []byte("quiet")) {
		t.Errorf("%s %v", b, err)
	}
	if _, err := service.NewLogger(f, "loud"); err == nil {
		t.Error("an unknown level was accepted")
	}
}
