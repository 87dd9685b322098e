package guard

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// cutGrace is how long a handler that has not answered has to notice that its request
// is cut, before its connection is closed without an answer.
const cutGrace = time.Second

// longAgo as a deadline makes reads and writes fail at once.
var longAgo = time.Unix(1, 0)

// writer is the response of a request that may be cut.
type writer struct {
	http.ResponseWriter
	g        *Guard
	decision Decision
	control  *http.ResponseController
	dead     func() *Denial // why the request's context ended; nil while it goes on

	using sync.Mutex // held while the response is used; taken before mu
	mu    sync.Mutex
	state state
	why   *Denial // it was cut; nil while it goes on
	grace *time.Timer
}

// state is how far a response is.
type state int

const (
	unanswered state = iota
	answered         // the header is out, or about to be
	hijacked
	done // the handler has returned
)

func newWriter(ctx context.Context, g *Guard, d Decision, w http.ResponseWriter) *writer {
	return &writer{ResponseWriter: w, g: g, decision: d, control: http.NewResponseController(w), dead: func() *Denial {
		denial, _ := errors.AsType[*Denial](context.Cause(ctx))
		return denial
	}}
}

// use lets the handler do one thing with the response, unless it is cut.
func (w *writer) use(f func() error) error {
	w.using.Lock()
	defer w.using.Unlock()
	if d := w.dead(); d != nil {
		w.cut(d) // the handler may see its context end before the watch gets here
	}
	w.mu.Lock()
	why := w.why
	if why == nil && w.state == unanswered {
		w.state = answered
	}
	w.mu.Unlock()
	if why != nil {
		return why
	}
	return f()
}

// WriteHeader implements http.ResponseWriter; after the cut it does nothing.
func (w *writer) WriteHeader(status int) {
	_ = w.use(func() error { w.ResponseWriter.WriteHeader(status); return nil })
}

// Write implements http.ResponseWriter; after the cut it fails with the *Denial.
func (w *writer) Write(b []byte) (n int, err error) {
	err = w.use(func() (err error) { n, err = w.ResponseWriter.Write(b); return err })
	return n, err
}

// FlushError is what http.ResponseController calls.
func (w *writer) FlushError() error { return w.use(w.control.Flush) }

// Flush implements http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// Unwrap serves http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack implements http.Hijacker. The connection that it returns is tied to the
// credential, see Conn, also after the handler has returned.
func (w *writer) Hijack() (conn net.Conn, buffered *bufio.ReadWriter, err error) {
	err = w.use(func() (err error) {
		if conn, buffered, err = w.control.Hijack(); err != nil {
			return err
		}
		w.mu.Lock()
		w.state = hijacked
		w.mu.Unlock()
		conn = w.g.Conn(w.decision, conn)
		return nil
	})
	return conn, buffered, err
}

// cut ends the response. It may be called again.
func (w *writer) cut(d *Denial) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why != nil || w.state == done {
		return
	}
	w.why = d
	switch w.state {
	case answered:
		go w.shut()
	case unanswered:
		_ = w.control.SetReadDeadline(longAgo) // a handler that waits for the body can answer
		w.grace = time.AfterFunc(cutGrace, w.shut)
	}
}

// shut closes the connection, or the stream of HTTP/2. The deadlines release whoever
// reads the request or writes the answer; a server that knows neither deadlines nor
// hijacking only ends the context.
func (w *writer) shut() {
	_ = w.control.SetReadDeadline(longAgo)
	_ = w.control.SetWriteDeadline(longAgo)
	w.using.Lock()
	defer w.using.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == done {
		return
	}
	w.state = hijacked
	if conn, _, err := w.control.Hijack(); err == nil {
		_ = conn.Close()
	}
}

// finish answers a request that was cut before it had an answer, and closes the
// connection of one that had. The handler has returned.
func (w *writer) finish(ctx context.Context) {
	denial, cut := errors.AsType[*Denial](context.Cause(ctx))
	w.using.Lock()
	defer w.using.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.grace != nil {
		w.grace.Stop()
	}
	was := w.state
	w.state = done
	switch {
	case !cut || was == hijacked:
	case was == answered:
		_ = w.control.SetWriteDeadline(longAgo) // so that it does not look complete
	default:
		clear(w.Header()) // what the handler meant to say
		w.Header().Set("Connection", "close")
		denial.Respond(w.ResponseWriter)
	}
}
