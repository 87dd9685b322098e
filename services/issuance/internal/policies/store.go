// Package policies holds the policy set in force, as the log has it, and puts new ones
// in force. Only issuance imports it.
//
// A set travels as events of the operators' tenant: its text in parts, then the
// activation, stored together or not at all. Every process follows them and swaps the
// set by one pointer, so that a decision is made by one version, and no request waits.
package policies

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// Follower is what a Store needs of the bus.
type Follower interface {
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// filter matches everything about policies.
var filter = events.LogSubject(service.SystemTenant, "policy", "*", "*")

// Store is safe for concurrent use.
type Store struct {
	log    *zap.Logger
	active atomic.Pointer[policy.Set]

	mu       sync.Mutex
	pending  []events.PolicyPublished // parts that no activation has claimed yet
	latest   Activation
	files    []policy.File // of latest
	sequence uint64        // applied up to here
	caughtUp bool
	moved    chan struct{} // closed and replaced when sequence grows
}

// Activation is how a set came into force. The built-in set has none.
type Activation struct {
	events.PolicyActivated
	At time.Time
}

// NewStore makes a store that knows nothing; Run fills it.
func NewStore(log *zap.Logger) *Store { return &Store{log: log, moved: make(chan struct{})} }

// Active is the set in force, nil until everything that was on the log at start has
// been read, and while the set in force is one that this process cannot read: deciding
// by an older one could allow what the newer forbids.
func (s *Store) Active() *policy.Set { return s.active.Load() }

// Activation tells how the set in force came to be; ok is false for the built-in one.
func (s *Store) Activation() (a Activation, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest, s.latest.Version != ""
}

// Run follows the log until ctx ends. It may be called again after it failed.
func (s *Store) Run(ctx context.Context, log Follower) error {
	last, err := log.LastSequence(ctx, bus.StreamLog, filter)
	if err != nil {
		return fmt.Errorf("read end of the policies: %w", err)
	}
	s.mu.Lock()
	from := s.sequence + 1
	if from > last {
		s.install()
	}
	s.mu.Unlock()
	err = log.Follow(ctx, bus.StreamLog, []string{filter}, from, func(st bus.Stored) error {
		s.Apply(st)
		if st.Sequence == last {
			s.mu.Lock()
			s.install()
			s.mu.Unlock()
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow policies: %w", err)
}

// Apply folds one stored event. Applying it again changes nothing.
func (s *Store) Apply(st bus.Stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Sequence <= s.sequence {
		return
	}
	s.sequence = st.Sequence
	close(s.moved)
	s.moved = make(chan struct{})
	switch st.Event.Type() {
	case events.TypePolicyPublished:
		if p, err := events.As[events.PolicyPublished](st.Event); err == nil {
			if p.Part == 1 {
				s.pending = s.pending[:0]
			}
			s.pending = append(s.pending, p)
		}
	case events.TypePolicyActivated:
		p, err := events.As[events.PolicyActivated](st.Event)
		if err != nil {
			return
		}
		s.latest, s.files = Activation{p, st.Event.Time()}, assemble(p, s.pending)
		s.pending = nil
		if s.caughtUp {
			s.install()
		}
	}
}

// install puts the latest set in force. The caller holds the lock.
func (s *Store) install() {
	s.caughtUp = true
	files := s.files
	if s.latest.Version == "" {
		files = policy.Default()
	}
	set, err := policy.Parse(files)
	if err == nil && s.latest.Version != "" && set.Version() != s.latest.Version {
		err = fmt.Errorf("its parts are those of %s", set.Version())
	}
	if err != nil {
		s.active.Store(nil)
		s.log.Error("the policies in force cannot be read, so nothing is issued: activate a set that this version can read",
			zap.String("policy", s.latest.Version), zap.Error(err))
		return
	}
	s.active.Store(set)
	s.log.Info("policies in force", zap.String("policy", set.Version()), zap.Int("policies", len(set.Policies())))
}

// assemble puts the files of a set together; what does not fit gives other files, and
// so another version than p names.
func assemble(p events.PolicyActivated, parts []events.PolicyPublished) []policy.File {
	var files []policy.File
	var text strings.Builder
	for i, part := range parts {
		if part.Version != p.Version || part.Part != i+1 || part.Parts != len(parts) {
			return nil
		}
		text.WriteString(part.Text)
		if i == len(parts)-1 || parts[i+1].File != part.File {
			files = append(files, policy.File{Name: part.File, Text: text.String()})
			text.Reset()
		}
	}
	return files
}

// Know returns when the activation of version at that time has been applied, or a later
// one.
func (s *Store) Know(ctx context.Context, version string, at time.Time) error {
	for {
		s.mu.Lock()
		latest, moved := s.latest, s.moved
		s.mu.Unlock()
		if latest.Version == version && !latest.At.Before(at) || latest.At.After(at) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for the policies: %w", ctx.Err())
		}
	}
}

// Wait returns when everything up to sequence has been applied.
func (s *Store) Wait(ctx context.Context, sequence uint64) error {
	for {
		s.mu.Lock()
		at, moved := s.sequence, s.moved
		s.mu.Unlock()
		if at >= sequence {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for the policies: %w", ctx.Err())
		}
	}
}
