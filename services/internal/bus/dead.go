package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Subjects of the dead-letter stream:
//
//	nhi.dead.<stream>.<service>             a dead letter; "-" when it was never in a stream
//	nhi.dead.RETRY.<service>.<sequence>     a dead letter on its way again, for that service alone
//	nhi.dead.REPLAYED.<sequence>            marks a dead letter as replayed
const (
	deadRetry    = "nhi.dead.RETRY."
	deadReplayed = "nhi.dead.REPLAYED."
)

func retryFilter(service string) string { return deadRetry + events.Token(service) + ".*" }

// DeadLetters yields the dead letters from a sequence on.
func (c *Conn) DeadLetters(ctx context.Context, from uint64) iter.Seq2[Dead, error] {
	return func(yield func(Dead, error) bool) {
		replayed := make(map[uint64]bool)
		for m, err := range c.raw(ctx, StreamDead, deadReplayed+"*", 1) {
			if err != nil {
				yield(Dead{}, err)
				return
			}
			if n, err := strconv.ParseUint(lastToken(m.Subject), 10, 64); err == nil {
				replayed[n] = true
			}
		}
		for m, err := range c.raw(ctx, StreamDead, ">", from) {
			if err != nil {
				yield(Dead{}, err)
				return
			}
			if strings.HasPrefix(m.Subject, deadRetry) || strings.HasPrefix(m.Subject, deadReplayed) {
				continue
			}
			d, err := deadOf(m.Header, m.Data)
			if err != nil {
				d = Dead{Subject: m.Subject, Code: "internal", Reason: err.Error(), At: m.Time, Data: m.Data}
			}
			d.Sequence, d.Replayed = m.Sequence, replayed[m.Sequence]
			if !yield(d, nil) {
				return
			}
		}
	}
}

// deadOf reads a dead letter: its data are the message, all else is in a header.
func deadOf(h nats.Header, data []byte) (Dead, error) {
	var d Dead
	if err := json.Unmarshal([]byte(h.Get(headerDead)), &d); err != nil {
		return Dead{}, fmt.Errorf("read dead letter: %w", err)
	}
	d.Data = data
	return d, nil
}

// Bury stores a dead letter for something that was refused before the bus (intake).
func (c *Conn) Bury(ctx context.Context, d Dead) error {
	if d.Service == "" {
		return errors.New("bury: no service")
	}
	if d.At.IsZero() {
		d.At = c.cfg.Now()
	}
	return c.bury(ctx, d, 0)
}

// bury is idempotent for one delivery of one message.
func (c *Conn) bury(ctx context.Context, d Dead, retry uint64) error {
	const maxReason = 1000
	if len(d.Reason) > maxReason {
		d.Reason = strings.ToValidUTF8(d.Reason[:maxReason], "") + " ..."
	}
	if len(d.Data) > events.MaxSize {
		d.Reason += fmt.Sprintf(" (first %d of %d bytes kept)", events.MaxSize, len(d.Data))
		d.Data = d.Data[:events.MaxSize]
	}
	it, err := deadItem(d)
	if err != nil {
		return err
	}
	it.subject = deadSubject(d)
	if d.Original > 0 {
		it.id = fmt.Sprintf("dead|%s|%d|%s|%d", d.Stream, d.Original, d.Service, retry)
	} else {
		it.id = "dead|" + events.DeterministicID(d.Service, d.Subject, d.Code, d.At.UTC().String(), string(d.Data))
	}
	_, err = c.store(ctx, []item{it}, nil)
	return err
}

func deadSubject(d Dead) string {
	stream := d.Stream
	if stream == "" {
		stream = "-"
	}
	return "nhi.dead." + events.Token(stream) + "." + events.Token(d.Service)
}

// deadItem is a message with a dead letter's data and header, without subject and id.
func deadItem(d Dead) (item, error) {
	data := d.Data
	d.Data = nil
	b, err := json.Marshal(d)
	if err != nil {
		return item{}, fmt.Errorf("encode dead letter: %w", err)
	}
	return item{stream: StreamDead, data: data, header: nats.Header{headerDead: {string(b)}}}, nil
}

// Replay puts a dead letter back for the service that gave up on it and marks it
// replayed. It does not go into the stream it came from, where every fold would see
// the fact twice, but reaches that service's handler as if it did, as it was.
//
// What was refused before the bus is published as if it had just arrived, if it would
// be received from its sender now: it must pass events.Receive for the tenant that its
// subject names and be of a type that producers may state.
//
// A letter is put back once: ErrReplayed when it was before. Calling it again after
// any other error is safe.
func (c *Conn) Replay(ctx context.Context, sequence uint64) error {
	if err := c.replay(ctx, sequence); err != nil {
		return fmt.Errorf("replay %d: %w", sequence, err)
	}
	return nil
}

func (c *Conn) replay(ctx context.Context, sequence uint64) error {
	d, err := c.letter(ctx, sequence)
	if err != nil {
		return err
	}
	mark := item{stream: StreamDead, subject: deadReplayed + strconv.FormatUint(sequence, 10), id: fmt.Sprintf("replayed|%d", sequence)}
	switch seq, err := c.LastSequence(ctx, StreamDead, mark.subject); {
	case err != nil:
		return err
	case seq > 0:
		return ErrReplayed
	}
	if d.Original > 0 {
		err = c.putBack(ctx, d, sequence)
	} else {
		err = c.publishRefused(ctx, d)
	}
	if err != nil {
		return err
	}
	return c.storeOnce(ctx, mark)
}

// letter reads one dead letter. Its header must say what its subject says, which is
// what the permissions of its writer are about.
func (c *Conn) letter(ctx context.Context, sequence uint64) (Dead, error) {
	s, err := c.js.Stream(ctx, StreamDead)
	if err != nil {
		return Dead{}, err
	}
	m, err := s.GetMsg(ctx, sequence)
	if err != nil {
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return Dead{}, errors.New("there is no such dead letter")
		}
		return Dead{}, err
	}
	if strings.HasPrefix(m.Subject, deadRetry) || strings.HasPrefix(m.Subject, deadReplayed) {
		return Dead{}, errors.New("it is not a dead letter")
	}
	d, err := deadOf(m.Header, m.Data)
	if err != nil {
		return Dead{}, err
	}
	if want := deadSubject(d); m.Subject != want {
		return Dead{}, fmt.Errorf("it lies on %s and says that it belongs on %s", m.Subject, want)
	}
	return d, nil
}

// putBack hands a letter to the service that gave up on it, once.
func (c *Conn) putBack(ctx context.Context, d Dead, sequence uint64) error {
	it, err := deadItem(d)
	if err != nil {
		return err
	}
	it.subject = deadRetry + events.Token(d.Service) + "." + strconv.FormatUint(sequence, 10)
	it.id = fmt.Sprintf("retry|%d", sequence)
	return c.storeOnce(ctx, it)
}

// publishRefused publishes what was refused before the bus. The message id is the
// event's, so that two letters of one event do not double it either.
func (c *Conn) publishRefused(ctx context.Context, d Dead) error {
	e, err := events.Receive(d.Data, events.SubjectTenant(d.Subject))
	if err != nil {
		return fmt.Errorf("it is still refused: %w", err)
	}
	if info, ok := events.Lookup(e.Type()); !ok || info.Channel != events.ChannelIn {
		return fmt.Errorf("it is still refused: %w: producers do not state %s", events.ErrUnknownType, e.Type())
	}
	return c.Publish(ctx, e)
}

// storeOnce stores an item unless its subject has a message already.
func (c *Conn) storeOnce(ctx context.Context, it item) error {
	_, err := c.store(ctx, []item{it}, &Expect{Filter: it.subject})
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}
