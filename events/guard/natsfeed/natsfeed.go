// Package natsfeed is the kill feed over NATS JetStream: guards follow the core
// subjects that the stream NHI_KILL is republished on, and fill what they missed by
// batched direct gets. A guard leaves nothing on the server.
//
// Products import it beside package guard. Its NATS user needs:
//
//	subscribe  nhi.feed.>, its inbox
//	publish    $JS.API.STREAM.INFO.NHI_KILL, $JS.API.DIRECT.GET.NHI_KILL,
//	           $JS.API.DIRECT.GET.NHI_SNAP.>,
//	           nhi.receipt.<tenant>.>, nhi.guard.<tenant>.>
package natsfeed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// Stream and subjects of the kill feed.
const (
	Stream     = "NHI_KILL"
	StoreRoot  = "nhi.kill." // of stored messages
	FeedRoot   = "nhi.feed." // of the same messages as they are pushed
	pageLength = 1000
)

const (
	callTimeout = 5 * time.Second
	pageTimeout = 10 * time.Second
	pageTries   = 5                      // of a page, while a replica lags
	pagePause   = 200 * time.Millisecond // between them
	pendingMsgs = 1 << 18                // pushed messages that may wait in this process
	pendingSize = 256 << 20              // and their bytes
)

// ErrTail means that the end of the stream could not be read: the replica that
// answered lags behind, or the newest message has expired.
var ErrTail = errors.New("the end of the kill feed cannot be read yet")

// Feed implements guard.Feed.
type Feed struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	own bool
}

// New makes a feed on a connection, which stays the caller's to close. The
// connection should reconnect for ever.
func New(nc *nats.Conn) (*Feed, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open kill feed: %w", err)
	}
	return &Feed{nc: nc, js: js}, nil
}

// Dial connects to a NATS server, such as "tls://nats.example:4222", with its
// credentials as options (nats.Nkey, nats.UserCredentials, nats.Secure). It keeps
// reconnecting until Close.
func Dial(url string, opts ...nats.Option) (*Feed, error) {
	opts = append([]nats.Option{nats.Name("lanyard guard"), nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond), nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2)}, opts...)
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the kill feed: %w", err)
	}
	f, err := New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	f.own = true
	return f, nil
}

// Close ends a connection made by Dial; one given to New is left alone.
func (f *Feed) Close() {
	if f.own {
		f.nc.Close()
	}
}

// Subscribe implements guard.Feed. A reconnect resumes the subscription; what was
// missed shows as a gap.
func (f *Feed) Subscribe(ctx context.Context, deliver func(guard.Message)) error {
	sub, err := f.nc.Subscribe(FeedRoot+">", func(m *nats.Msg) {
		if msg, ok := pushed(m); ok {
			deliver(msg)
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe to the kill feed: %w", err)
	}
	flush, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = sub.SetPendingLimits(pendingMsgs, pendingSize)
	if err == nil {
		err = f.nc.FlushWithContext(flush)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("subscribe to the kill feed: %w", err), sub.Unsubscribe())
	}
	context.AfterFunc(ctx, func() {
		_ = sub.Unsubscribe() // fails only when the connection is closed already
	})
	return nil
}

// pushed reads a republished message. One without the server's headers was not
// republished from the stream and is not part of the feed.
func pushed(m *nats.Msg) (guard.Message, bool) {
	seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	subject := m.Header.Get(jetstream.SubjectHeader)
	if err != nil || seq == 0 || subject == "" || m.Header.Get(jetstream.StreamHeader) != Stream {
		return guard.Message{}, false
	}
	return guard.Message{Sequence: seq, Subject: subject, Data: m.Data}, true
}

// Fill implements guard.Feed. The stream's leader says how far to read; the pages may
// come from any replica. Holes are normal: heartbeats supersede each other.
func (f *Feed) Fill(ctx context.Context, from uint64, deliver func(guard.Message) error) (uint64, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := f.js.Stream(call, Stream)
	if err != nil {
		return 0, fmt.Errorf("ask how far the kill feed goes: %w", err)
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 || state.LastSeq < from {
		return state.LastSeq, nil
	}
	next, tries := max(from, 1), 0
	for next <= state.LastSeq {
		after, err := f.page(ctx, next, deliver)
		if err != nil {
			return 0, err
		}
		if after > next {
			next, tries = after, 0
			continue
		}
		if tries++; tries == pageTries {
			return 0, fmt.Errorf("read the kill feed from %d to %d: %w", next, state.LastSeq, ErrTail)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pagePause):
		}
	}
	return next - 1, nil
}

// page reads one page and returns the sequence after its last message, or next when
// nothing came.
func (f *Feed) page(ctx context.Context, next uint64, deliver func(guard.Message) error) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	batch, err := jetstreamext.GetBatch(ctx, f.js, Stream, pageLength, jetstreamext.GetBatchSeq(next))
	if err != nil {
		return 0, fmt.Errorf("read the kill feed from %d: %w", next, err)
	}
	for m, err := range batch {
		switch {
		case errors.Is(err, jetstreamext.ErrNoMessages):
			return next, nil
		case err != nil:
			return 0, fmt.Errorf("read the kill feed from %d: %w", next, err)
		case m.Sequence < next:
			return 0, fmt.Errorf("read the kill feed from %d: got %d", next, m.Sequence)
		}
		if err := deliver(guard.Message{Sequence: m.Sequence, Subject: m.Subject, Data: m.Data}); err != nil {
			return 0, err
		}
		next = m.Sequence + 1
	}
	return next, nil
}

// Answer implements guard.Feed: it returns when the event is stored. Answering with
// the same event again stores nothing.
func (f *Feed) Answer(ctx context.Context, e events.Event) error {
	subject, err := events.Subject(e)
	if err != nil {
		return err
	}
	data, err := events.Encode(e)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{"Content-Type": {events.ContentType}}}
	id := events.Tenant(e) + "|" + e.Source() + "|" + e.ID()
	if _, err := f.js.PublishMsg(ctx, m, jetstream.WithMsgID(id)); err != nil {
		return fmt.Errorf("publish %s: %w", e.Type(), err)
	}
	return nil
}
