package service

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Limits of every HTTP server.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second // longer than the longest long poll
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
)

// listeners are the bound addresses of a process, by service name or "debug".
type listeners map[string]net.Listener

// listenAddrs is where the configuration wants each service to listen.
func listenAddrs(c config.Config) map[string]string {
	return map[string]string{"intake": c.Intake.Listen, "issuance": c.Issuance.Listen, "anomaly": c.Anomaly.Listen,
		"rotation": c.Rotation.Listen, "revocation": c.Revocation.Listen, "guard": c.Guard.Listen, "debug": c.Debug.Listen}
}

// bind binds the addresses of names and of the debug server. A port 0 becomes the
// one that it was in this data directory last time, when that is free.
func bind(c config.Config, names []string) (_ listeners, err error) {
	ls := listeners{}
	defer func() {
		if err != nil {
			err = errors.Join(err, ls.close())
		}
	}()
	file := filepath.Join(c.Data, "addresses.json")
	last := map[string]string{}
	if b, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(b, &last) // a damaged memory of ports is none
	}
	want := listenAddrs(c)
	for _, n := range append([]string{"debug"}, names...) {
		if want[n] == "" {
			continue
		}
		l, err := listen(want[n], last[n])
		if err != nil {
			return ls, fmt.Errorf("listen for %s: %w", n, err)
		}
		ls[n] = l
		last[n] = l.Addr().String()
	}
	b, err := json.MarshalIndent(last, "", "  ")
	if err != nil {
		return ls, err
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o600); err != nil {
		return ls, fmt.Errorf("remember addresses: %w", err)
	}
	return ls, nil
}

func listen(want, last string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(want)
	if err != nil {
		return nil, err
	}
	if h, _, err := net.SplitHostPort(last); port == "0" && err == nil && h == host {
		if l, err := net.Listen("tcp", last); err == nil {
			return l, nil
		}
	}
	return net.Listen("tcp", want)
}

func (ls listeners) close() error {
	var errs []error
	for _, l := range ls {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// tlsConfig is nil when the listeners are plain. The certificate is read again when
// its file has changed, so that it can be renewed without a restart.
func tlsConfig(c config.TLS) (*tls.Config, error) {
	if c.Cert == "" {
		return nil, nil
	}
	r := &certificate{cert: c.Cert, key: c.Key}
	if _, err := r.get(nil); err != nil {
		return nil, fmt.Errorf("read TLS certificate: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: r.get}, nil
}

type certificate struct {
	cert, key string

	mu      sync.Mutex
	changed time.Time
	loaded  *tls.Certificate
}

func (r *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.cert)
	if err == nil && r.loaded != nil && info.ModTime().Equal(r.changed) {
		return r.loaded, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(r.cert, r.key); err == nil {
			r.loaded, r.changed = &pair, info.ModTime()
		}
	}
	if r.loaded != nil {
		return r.loaded, nil // the last good one
	}
	return nil, err
}

// newServer is an HTTP server with our limits around h.
func newServer(name string, h http.Handler, log *zap.Logger, seconds *prometheus.HistogramVec, now func() time.Time) *http.Server {
	log = log.Named("http")
	errorLog, _ := zap.NewStdLogAt(log, zap.DebugLevel) // fails for unknown levels only
	draining, drain := context.WithCancel(context.Background())
	var protocols http.Protocols // HTTP/2 in the clear, on loopback, is for gRPC (OTLP)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Protocols:         &protocols,
		Handler:           observe(name, endStreams(draining, h), log, seconds, now),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          errorLog,
	}
	s.RegisterOnShutdown(drain)
	return s
}

// streaming reports whether a request stays open for as long as the client wants:
// an event stream or a long poll.
func streaming(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream") || r.URL.Query().Has("wait")
}

// endStreams ends the contexts of streaming requests when the server shuts down;
// other requests finish.
func endStreams(draining context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if streaming(r) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(draining, cancel)()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// observe bounds the time of an answer, survives panics, and measures and logs
// each request in one line.
func observe(name string, next http.Handler, log *zap.Logger, seconds *prometheus.HistogramVec, now func() time.Time) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := now()
		rec := &recorder{ResponseWriter: w}
		deadlines(rec, r, start)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p) // how a handler ends a connection on purpose
				}
				log.Error("http handler panicked", zap.String("service", name), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
				if rec.status == 0 {
					Problem(rec, http.StatusInternalServerError, "internal", "the request could not be handled; the operator's log says why")
				}
			}
			status := rec.status
			if status == 0 {
				status = http.StatusOK
			}
			took := now().Sub(start)
			seconds.WithLabelValues(name, r.Method, strconv.Itoa(status)).Observe(took.Seconds())
			level := zap.DebugLevel
			if status >= 500 {
				level = zap.WarnLevel
			}
			if e := log.Check(level, "http request"); e != nil {
				e.Write(zap.String("service", name), zap.String("method", r.Method), zap.String("path", r.URL.Path),
					zap.Int("status", status), zap.Int64("bytes", rec.bytes), zap.Duration("took", took), zap.String("remote", r.RemoteAddr))
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// deadlines bounds the answer, except for event streams, and lifts the read bound
// from requests without a body, which would otherwise end long polls.
func deadlines(w http.ResponseWriter, r *http.Request, now time.Time) {
	rc := http.NewResponseController(w)
	if r.ContentLength == 0 {
		_ = rc.SetReadDeadline(time.Time{}) // not supported by test recorders
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		_ = rc.SetWriteDeadline(now.Add(writeTimeout))
	}
}

// recorder notes status and size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush implements http.Flusher.
func (r *recorder) Flush() {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	_ = http.NewResponseController(r.ResponseWriter).Flush() // not supported: nothing to flush
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// shutdown stops servers: no new connections, running requests finish within the
// grace period, then they are cut off.
func shutdown(servers []*http.Server, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				errs[i] = s.Close() // streams do not end by themselves
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
