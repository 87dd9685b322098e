// Package intake is the HTTP door for products: it takes CloudEvents in every mode of
// the HTTP binding, and the raw records of audit logs and agent runtimes (see package
// adapter), and stores them on the bus.
//
// "Accepted" means durable: the bus has acknowledged it. What is refused leaves one
// dead letter with the reason and nothing else. When the bus cannot be reached
// nothing is accepted, and sending the same events again is safe, since their ids
// decide what they are.
package intake

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Name of the service.
const Name = "intake"

// Defaults and limits of a request.
const (
	defaultBody = 8 << 20         // bytes, packed and unpacked
	defaultSkew = 5 * time.Minute // how far in the future an event may lie
	maxItems    = 10_000          // events or records in one request
	maxRequests = 16              // requests whose bodies are held at once; others wait
	maxInstance = 128             // characters of the instance that a sender names
	storeWait   = 20 * time.Second
)

// publisher is the part of the bus that intake uses.
type publisher interface {
	Publish(ctx context.Context, es ...events.Event) error
	Bury(ctx context.Context, d bus.Dead) error
}

type server struct {
	bus   publisher
	log   *zap.Logger
	now   func() time.Time
	skew  time.Duration
	limit int64
	wait  time.Duration // for the bus
	slots chan struct{}
	taken *prometheus.CounterVec
	table []adapter.Adapter
	key   []byte // of the hashes in the place of arguments

	recent *recent
}

// New builds the service. It has no handlers; it needs Env's Bus, Guard, Log and Now.
func New(env service.Env) (service.Service, error) { return build(env, storeWait) }

// build is New with another patience for the bus.
func build(env service.Env, wait time.Duration) (service.Service, error) {
	s := &server{
		wait:   wait,
		bus:    env.Bus,
		log:    env.Log,
		now:    env.Now,
		skew:   cmp.Or(time.Duration(env.Config.Intake.ClockSkew), defaultSkew),
		limit:  cmp.Or(env.Config.Intake.MaxBody, defaultBody),
		slots:  make(chan struct{}, maxRequests),
		recent: newRecent(recentMax),
		table:  adapter.Table(),
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_intake_events_total",
			Help: "Events and records that arrived, by what they were sent as and by result: accepted, skipped, or the code of the refusal.",
		}, []string{"source", "result"}),
	}
	var err error
	if s.key, err = hashKey(env); err != nil {
		return service.Service{}, fmt.Errorf("build intake: %w", err)
	}
	if len(env.Config.Intake.Mappings) > 0 {
		mapped, err := adapter.Mapped(env.Config.Intake.Mappings, s.key)
		if err != nil {
			return service.Service{}, fmt.Errorf("build intake: %w", err)
		}
		s.table = append(s.table, mapped)
	}
	if env.Metrics != nil {
		if err := env.Metrics.Register(s.taken); err != nil {
			return service.Service{}, fmt.Errorf("build intake: register metrics: %w", err)
		}
	}
	// It sweeps: what is published past HTTP and no service knows is dead-lettered,
	// not left to age away.
	return service.Service{Name: Name, Publishes: admitted(), Sweep: true, HTTP: s.routes(env.Authorize)}, nil
}

// admitted lists the types that may come in.
func admitted() []string {
	var types []string
	for _, t := range events.Catalogue {
		if t.Channel == events.ChannelIn {
			types = append(types, t.Type)
		}
	}
	return types
}

func (s *server) routes(authorize func(scope string, h http.Handler) http.Handler) http.Handler {
	mux := http.NewServeMux()
	open := func(pattern string, d door) { mux.Handle(pattern, authorize(service.ScopeIntake, s.open(d))) }
	open("POST /v1/events", plain("events", s.events))
	for _, a := range s.table {
		if a.Name == "traces" {
			open("POST /v1/traces", s.tracesHTTP(a))
			open(exportPath, s.tracesGRPC(a))
			continue
		}
		open("POST /v1/"+a.Name, plain(a.Name, s.records(a)))
	}
	return mux
}

// door is one way in: how to read a request, and how to answer it in the protocol of
// the sender.
type door struct {
	source  string // what is sent: "events", or the name of an adapter
	take    func(http.ResponseWriter, *http.Request, *sender) (batch, error)
	answer  func(http.ResponseWriter, *http.Request, Result)
	problem func(w http.ResponseWriter, r *http.Request, status int, code, detail string)
}

// plain is a door that answers with a Result or a problem, as JSON.
func plain(source string, take func(http.ResponseWriter, *http.Request, *sender) (batch, error)) door {
	return door{source: source, take: take,
		answer: func(w http.ResponseWriter, _ *http.Request, out Result) { service.JSON(w, http.StatusAccepted, out) },
		problem: func(w http.ResponseWriter, _ *http.Request, status int, code, detail string) {
			service.Problem(w, status, code, detail)
		}}
}

// open does what all doors have in common: it finds the caller and the tenant, bounds
// how many bodies are in memory, and answers for what the door made of them.
func (s *server) open(d door) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, ok := service.Caller(r.Context())
		if !ok {
			d.problem(w, r, http.StatusUnauthorized, "missing_token", "send a Lanyard access token in the Authorization header")
			return
		}
		tenant, err := service.TenantOf(r, claims)
		if err != nil {
			d.problem(w, r, status(err), code(err), err.Error())
			return
		}
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-r.Context().Done():
			return
		}
		from := sender{claims: claims, tenant: tenant, path: r.URL.Path, door: d}
		b, err := d.take(w, r, &from)
		if err != nil {
			s.refuseWhole(w, r, from, b.body, err)
			return
		}
		s.answer(w, r, from, b)
	})
}

// answer stores what was accepted, buries what was refused and says so. Storing
// comes first: a request that fails after it can be sent again without harm.
func (s *server) answer(w http.ResponseWriter, r *http.Request, from sender, b batch) {
	ctx, cancel := context.WithTimeout(r.Context(), s.wait)
	defer cancel()
	if fresh := s.recent.unseen(b.accepted); len(fresh) > 0 {
		if err := s.bus.Publish(ctx, fresh...); err != nil {
			s.unavailable(w, r, from, err)
			return
		}
		s.recent.stored(fresh)
	}
	if err := s.bury(ctx, from, b.refused); err != nil {
		s.unavailable(w, r, from, err)
		return
	}
	s.count(from.door.source, b)
	s.log.Info("events taken", zap.String("tenant", from.tenant), zap.String("client", from.claims.Subject),
		zap.String("path", from.path), zap.Int("accepted", len(b.accepted)), zap.Int("refused", len(b.refused)), zap.Int("skipped", b.skipped))
	if b.single && len(b.refused) == 1 {
		err := b.refused[0].err
		from.door.problem(w, r, status(err), code(err), err.Error())
		return
	}
	out := Result{Accepted: len(b.accepted), Refused: []Refusal{}, Skipped: b.skipped}
	for _, x := range b.refused {
		out.Refused = append(out.Refused, Refusal{Index: x.index, ID: x.id, Code: code(x.err), Reason: x.err.Error()})
	}
	from.door.answer(w, r, out)
}

// refuseWhole answers for a request of which nothing could be read.
func (s *server) refuseWhole(w http.ResponseWriter, r *http.Request, from sender, body []byte, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), s.wait)
	defer cancel()
	if buryErr := s.bury(ctx, from, []refused{{data: body, err: err}}); buryErr != nil {
		s.unavailable(w, r, from, buryErr)
		return
	}
	s.taken.WithLabelValues(from.door.source, code(err)).Inc()
	s.log.Info("request refused", zap.String("tenant", from.tenant), zap.String("client", from.claims.Subject),
		zap.String("path", from.path), zap.String("code", code(err)), zap.Error(err))
	from.door.problem(w, r, status(err), code(err), err.Error())
}

// unavailable answers when the bus did not. The outcome may be unknown, so the text
// promises nothing but that sending again is safe.
func (s *server) unavailable(w http.ResponseWriter, r *http.Request, from sender, err error) {
	result := "unavailable"
	if errors.Is(err, bus.ErrUnknownOutcome) {
		result = "unknown_outcome"
	}
	s.taken.WithLabelValues(from.door.source, result).Inc()
	s.log.Warn("events not taken", zap.String("tenant", from.tenant), zap.String("client", from.claims.Subject),
		zap.String("path", from.path), zap.Error(err))
	w.Header().Set("Retry-After", "2")
	from.door.problem(w, r, http.StatusServiceUnavailable, result, "the bus did not confirm the events; send the same events again, with the same ids")
}

func (s *server) count(source string, b batch) {
	s.taken.WithLabelValues(source, "accepted").Add(float64(len(b.accepted)))
	s.taken.WithLabelValues(source, "skipped").Add(float64(b.skipped))
	for _, x := range b.refused {
		s.taken.WithLabelValues(source, code(x.err)).Inc()
	}
}

// hashKey is the key of the hashes in the place of arguments. It derives from the seed
// with which intake signs in at the bus, which every process of intake has and nobody
// else; a new seed makes equal arguments look unequal once. Without keys it is good for
// this process only.
func hashKey(env service.Env) ([]byte, error) {
	if env.Keys == nil {
		key := make([]byte, sha256.Size)
		if _, err := io.ReadFull(cmp.Or[io.Reader](env.Rand, rand.Reader), key); err != nil {
			return nil, fmt.Errorf("make key of argument hashes: %w", err)
		}
		return key, nil
	}
	seed, err := env.Keys.NkeySeed(Name)
	if err != nil {
		return nil, fmt.Errorf("make key of argument hashes: %w", err)
	}
	key, err := hkdf.Key(sha256.New, seed, nil, "lanyard intake arguments", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("make key of argument hashes: %w", err)
	}
	return key, nil
}
