package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"go.uber.org/zap"
)

const (
	readBatch = 500     // messages per direct get
	readBytes = 4 << 20 // data per direct get
)

// Read yields the stored events of a stream that match filter, in order, from
// sequence from up to the last one stored when Read was called. Undecodable
// messages are skipped (they are in the dead-letter stream). It uses batched direct
// gets: a follower may lag, so decisions must be guarded by Expect.
func (c *Conn) Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		for m, err := range c.raw(ctx, stream, filter, from) {
			if err != nil {
				yield(Stored{}, err)
				return
			}
			e, err := events.Decode(m.Data)
			if err != nil {
				continue
			}
			if !yield(Stored{Event: e, Subject: m.Subject, Stream: stream, Sequence: m.Sequence, Time: m.Time}, nil) {
				return
			}
		}
	}
}

// raw yields messages as they are stored.
func (c *Conn) raw(ctx context.Context, stream, filter string, from uint64) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		last, err := c.LastSequence(ctx, stream, filter)
		if err != nil {
			yield(nil, fmt.Errorf("read %s: %w", stream, err))
			return
		}
		for next := max(from, 1); next <= last; {
			after, more, err := c.rawBatch(ctx, stream, filter, next, last, yield)
			if err != nil {
				yield(nil, fmt.Errorf("read %s: %w", stream, err))
				return
			}
			if !more {
				return
			}
			next = after
		}
	}
}

// rawBatch yields one direct get and returns where the next one starts. more is
// false when there is nothing left or the caller wants no more.
func (c *Conn) rawBatch(ctx context.Context, stream, filter string, from, last uint64, yield func(*jetstream.RawStreamMsg, error) bool) (next uint64, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	msgs, err := jetstreamext.GetBatch(ctx, c.js, stream, readBatch,
		jetstreamext.GetBatchSeq(from), jetstreamext.GetBatchSubject(filter), jetstreamext.GetBatchMaxBytes(readBytes))
	if err != nil {
		return 0, false, err
	}
	next = from
	for m, err := range msgs {
		switch {
		case errors.Is(err, jetstreamext.ErrNoMessages):
			return 0, false, nil
		case err != nil:
			return 0, false, err
		case m.Sequence > last:
			return 0, false, nil
		}
		next = m.Sequence + 1
		if !yield(m, nil) {
			return 0, false, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	return next, next > from, nil
}

// Follow calls f for every stored event that matches filters, in order, from
// sequence from and then as they arrive, until ctx ends or f fails. It leaves
// nothing on the server.
func (c *Conn) Follow(ctx context.Context, stream string, filters []string, from uint64, f func(Stored) error) error {
	next := max(from, 1)
	wait := 50 * time.Millisecond
	for {
		seq, err := c.follow(ctx, stream, filters, next, f)
		var stop *followError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if seq >= next {
			next, wait = seq+1, 50*time.Millisecond
		}
		c.log.Warn("follower begins again", zap.String("stream", stream), zap.Uint64("sequence", next), zap.Error(err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		}
	}
}

// followError carries an error of the caller's function.
type followError struct{ err error }

func (e *followError) Error() string { return e.err.Error() }

// follow reads until something fails and returns the last sequence it handed over.
func (c *Conn) follow(ctx context.Context, stream string, filters []string, from uint64, f func(Stored) error) (uint64, error) {
	cons, err := c.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: filters, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return 0, err
	}
	defer c.forget(ctx, stream, cons)
	it, err := cons.Messages(jetstream.PullMaxMessages(readBatch))
	if err != nil {
		return 0, err
	}
	stopped := context.AfterFunc(ctx, it.Stop)
	defer stopped()
	defer it.Stop()
	var last uint64
	for {
		m, err := it.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return last, err
		}
		if err != nil {
			if ctx.Err() != nil {
				return last, ctx.Err()
			}
			c.log.Debug("follower waits", zap.String("stream", stream), zap.Error(err))
			if errors.Is(err, jetstream.ErrNoHeartbeat) {
				continue
			}
			return last, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return last, err
		}
		last = meta.Sequence.Stream
		e, err := events.Decode(m.Data())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return last, ctx.Err()
		}
		if err := f(Stored{Event: e, Subject: m.Subject(), Stream: stream, Sequence: last, Time: meta.Timestamp}); err != nil {
			return last, &followError{err}
		}
	}
}

// forget removes a follower's consumer. When it cannot, the server does after a
// while.
func (c *Conn) forget(ctx context.Context, stream string, cons jetstream.Consumer) {
	info := cons.CachedInfo()
	if info == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := c.js.DeleteConsumer(ctx, stream, info.Name); err != nil {
		c.log.Debug("cannot remove a follower's consumer", zap.String("stream", stream), zap.Error(err))
	}
}

// LastSequence is the sequence of the last message that matches filter in stream, 0
// when there is none. With filter ">" it is the stream's last sequence. The leader
// of the stream answers.
func (c *Conn) LastSequence(ctx context.Context, stream, filter string) (uint64, error) {
	if filter == ">" {
		s, err := c.js.Stream(ctx, stream)
		if err != nil {
			return 0, fmt.Errorf("last sequence of %s: %w", stream, err)
		}
		return s.CachedInfo().State.LastSeq, nil
	}
	m, err := c.lastMessage(ctx, stream, filter)
	if err != nil {
		return 0, fmt.Errorf("last sequence of %s: %w", stream, err)
	}
	if m == nil {
		return 0, nil
	}
	return m.Sequence, nil
}

// storedMessage is what the stream's leader says about a message.
type storedMessage struct {
	Subject  string `json:"subject"`
	Sequence uint64 `json:"seq"`
	Data     []byte `json:"data"`
}

// lastMessage asks the leader (STREAM.MSG.GET), since a direct get may be answered
// by a follower that lags. It is nil when there is none.
func (c *Conn) lastMessage(ctx context.Context, stream, filter string) (*storedMessage, error) {
	req, err := json.Marshal(map[string]string{"last_by_subj": filter})
	if err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
	}
	reply, err := c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: "$JS.API.STREAM.MSG.GET." + stream, Data: req})
	if err != nil {
		return nil, err
	}
	var resp struct {
		Message *storedMessage      `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &resp); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if resp.Error != nil {
		if resp.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		return nil, resp.Error
	}
	return resp.Message, nil
}
