package evaluate

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// maxLine bounds one line of the data.
const maxLine = 16 << 20

// read decodes a file of JSON lines; a name that ends in .gz is compressed.
func read[T any](dir, name string) ([]T, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		r = z
	}
	var out []T
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			return nil, fmt.Errorf("read %s line %d: %w", name, len(out)+1, err)
		}
		out = append(out, v)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return out, nil
}

// use is one activity with its envelope.
type use struct {
	meta anomaly.Meta
	a    *events.Activity
}

// neutral is the neutral form that recorded attacks are written in.
type neutral struct {
	ID, Time, Tenant, Identity, Credential, Session, Workload, Destination, Action, Resource, Outcome, Error string

	Kind           string `json:"identity_kind"`
	IdentityTenant string `json:"identity_tenant"`
	SourceIP       string `json:"source_ip"`
	SourceService  string `json:"source_service"`
	UserAgent      string `json:"user_agent"`
	ReadOnly       bool   `json:"read_only"`
	ResourceTenant string `json:"resource_tenant"`
	VPCE           string `json:"vpce"`
	Interactive    bool
	Label          string `json:"_label"`
}

func (n neutral) use() (use, error) {
	at, err := time.Parse(time.RFC3339, n.Time)
	if err != nil {
		return use{}, fmt.Errorf("read time of %s: %w", n.ID, err)
	}
	a := &events.Activity{Identity: n.Identity, IdentityTenant: n.IdentityTenant, Credential: n.Credential, Session: n.Session,
		Workload: n.Workload, Destination: n.Destination, Action: n.Action, Resource: n.Resource, ResourceTenant: n.ResourceTenant,
		Outcome: events.Outcome(n.Outcome), Error: n.Error, SourceIP: n.SourceIP, SourceService: n.SourceService,
		VPCEndpoint: n.VPCE, UserAgent: n.UserAgent, Interactive: n.Interactive}
	if n.ReadOnly {
		a.ActionClass = events.ClassRead
	}
	return use{anomaly.Meta{ID: n.ID, Source: "cloudtrail", Tenant: n.Tenant, Time: at}, a}, nil
}

// scenario is one recorded technique: what may be raised about whom.
type scenario struct {
	Scenario  string
	Detectors []string
	Entities  []string
	EventIDs  []string `json:"event_ids"`
}

// names reports whether an alert's identity is one of the scenario's entities. A
// session of an assumed role is the role.
func (s scenario) names(identity, session string) bool {
	for _, e := range s.Entities {
		if e == identity {
			return true
		}
		part := strings.Split(e, ":")
		if len(part) < 6 {
			continue
		}
		account := part[4]
		if role, ok := strings.CutPrefix(part[5], "assumed-role/"); ok {
			role, _, _ = strings.Cut(role, "/")
			if strings.Contains(identity, ":"+account+":") && (strings.HasSuffix(identity, "/"+role) || session == role) {
				return true
			}
		}
		if strings.HasPrefix(part[5], "federated-user/") && strings.HasPrefix(identity, "arn:aws:iam::"+account) {
			return true
		}
	}
	return false
}

// alerts picks the alerts out of outputs.
func alerts(out []anomaly.Output) []events.AnomalyDetected {
	var as []events.AnomalyDetected
	for _, o := range out {
		if a, ok := o.Payload.(events.AnomalyDetected); ok {
			as = append(as, a)
		}
	}
	return as
}

// revokes counts the automatic revocations in outputs.
func revokes(out []anomaly.Output) int {
	n := 0
	for _, o := range out {
		if _, ok := o.Payload.(events.RevocationRequested); ok {
			n++
		}
	}
	return n
}

// encode and decode are the payload's JSON as it travels.
func encode(a *events.Activity) ([]byte, error) {
	b, err := jsonv2.Marshal(events.APICalled{Activity: *a})
	if err != nil {
		return nil, fmt.Errorf("encode activity: %w", err)
	}
	return b, nil
}

func decode(b []byte) (*events.Activity, error) {
	var p events.APICalled
	if err := jsonv2.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("decode activity: %w", err)
	}
	return &p.Activity, nil
}
