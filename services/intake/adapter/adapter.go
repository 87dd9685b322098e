// Package adapter turns what audit logs and agent runtimes deliver into neutral
// activity events: one table of adapters by name, each a pure function from bytes to
// events and refusals with reasons. The service intake puts a door before each of them;
// what evaluates detectors on raw records may import the package too.
package adapter

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/cloudtrail"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/mapping"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/otel"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/sources"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// Why a record is refused, beside the errors of package events.
var (
	// ErrSkip marks what is in order but states no act of an identity, such as the
	// early stage of a request that is told again when it ends. It is not a refusal.
	ErrSkip = neutral.ErrSkip
	// ErrTime means that an event time cannot be right, such as the year 1970.
	ErrTime = neutral.ErrTime
	// ErrNotStored means that a notification names an object instead of holding records.
	ErrNotStored = neutral.ErrNotStored
	// ErrNoMapping means that none of the configured mappings takes a record.
	ErrNoMapping = mapping.ErrNoMatch
	// ErrTooMany means that a body holds more records than one request may carry.
	ErrTooMany = records.ErrTooMany
)

// MaxRecord is the largest single record, in bytes.
const MaxRecord = neutral.MaxRecord

// Adapter reads the records of one source.
type Adapter struct {
	Name  string // in the path POST /v1/<name> and in "lanyard event send --as <name>"
	Title string // what it reads, for people
	// Read finds the records in a body and makes each neutral. It fails when the body as
	// a whole cannot be read; the error wraps one of the errors above or of package events.
	Read func(Input) ([]Item, error)
}

// Input is a body and what is known of it.
type Input struct {
	Body   []byte
	Tenant string    // on whose behalf it arrived
	Seen   time.Time // when it arrived
	Limit  int       // how many records it may hold
	// Instance names the cluster, account or installation it came from, where records do
	// not say it. May be empty.
	Instance string
	// WholeTraces says that every span of a trace comes in one body.
	WholeTraces bool
	// Key makes the hashes that take the place of arguments. It must be secret, and the
	// same for as long as equal arguments are to be seen to be equal.
	Key []byte
}

// Item is one record after it was decided on: Event when Err is nil.
type Item struct {
	ID    string // as far as it could be read
	Raw   []byte
	Event events.Event
	Err   error
}

// Table is every built-in adapter.
func Table() []Adapter {
	return []Adapter{
		{"cloudtrail", "AWS CloudTrail records: files, EventBridge, CloudWatch Logs, SNS and SQS messages", each(cloudtrail.Shape, cloudtrail.Read)},
		{"kubernetes", "Kubernetes audit events (audit.k8s.io/v1): webhook batches and log lines", each(sources.KubernetesShape, sources.Kubernetes)},
		{"gcp", "Google Cloud audit log entries: Pub/Sub pushes, lists and lines", each(sources.GCPShape, sources.GCP)},
		{"azure", "Azure activity, resource and AKS logs, Entra audit and sign-in logs: event hub batches, API pages", each(sources.AzureShape, sources.Azure)},
		{"github", "GitHub audit log events: streamed arrays and lines", each(sources.GitHubShape, sources.GitHub)},
		{"okta", "Okta System Log events: API pages, event hooks, log streams", each(sources.OktaShape, sources.Okta)},
		{"openai", "OpenAI organization audit logs: pages of the admin API", each(sources.ModelsShape, sources.OpenAI)},
		{"anthropic", "Anthropic organization activities: pages of the compliance API", each(sources.ModelsShape, sources.Anthropic)},
		{"traces", "OpenTelemetry traces of agents (OTLP with GenAI conventions): protobuf or JSON; over gRPC too", traces},
	}
}

// MappedName is the name of the adapter for configured mappings.
const MappedName = "mapped"

// Mapped is the adapter that reads records by mappings in the configuration. It fails
// when an expression does not compile; the error names the mapping and the field. key is
// that of Input.
func Mapped(list []config.Mapping, key []byte) (Adapter, error) {
	var ms []mapping.Mapping
	for _, m := range list {
		ms = append(ms, mapping.Mapping(m))
	}
	set, err := mapping.Compile(ms, neutral.NewHasher(key))
	if err != nil {
		return Adapter{}, fmt.Errorf("intake.mappings: %w", err)
	}
	return Adapter{MappedName, "records of other sources, by intake.mappings of the configuration", each(mapping.Shape, set.Read)}, nil
}

// Find is the adapter with a name.
func Find(table []Adapter, name string) (Adapter, bool) {
	for _, a := range table {
		if a.Name == name {
			return a, true
		}
	}
	return Adapter{}, false
}

// reader makes one raw record neutral.
type reader func(raw []byte, c neutral.Context) (neutral.Record, error)

// each reads a body record by record.
func each(shape records.Shape, read reader) func(Input) ([]Item, error) {
	return func(in Input) ([]Item, error) {
		list, err := records.Split(in.Body, in.Limit, shape)
		if err != nil {
			return nil, err
		}
		c := in.context()
		items := make([]Item, 0, len(list))
		for _, raw := range list {
			r, err := read(raw, c)
			items = append(items, in.item(raw, r, err))
		}
		return items, nil
	}
}

// traces reads an OTLP request.
func traces(in Input) ([]Item, error) {
	list, err := otel.Read(in.Body, in.Limit, in.context())
	if err != nil {
		return nil, err
	}
	items := make([]Item, 0, len(list))
	for _, x := range list {
		items = append(items, in.item(x.Raw, x.Record, x.Err))
	}
	return items, nil
}

func (in Input) context() neutral.Context {
	return neutral.Context{Tenant: in.Tenant, Instance: in.Instance, Hash: neutral.NewHasher(in.Key), WholeTraces: in.WholeTraces}
}

// item finishes a record that was read.
func (in Input) item(raw []byte, r neutral.Record, err error) Item {
	it := Item{ID: r.ID, Raw: raw, Err: err}
	if err == nil {
		if it.Event, err = r.Event(in.Tenant, in.Seen); err != nil {
			it.Err = fmt.Errorf("make neutral event of %.64q: %w", r.ID, err)
		}
	}
	return it
}
