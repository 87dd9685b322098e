package engine

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// neutral is the neutral form that the evaluation data is written in.
type neutral struct {
	ID, Time, Tenant, Identity, Credential, Session, Workload, Destination, Action, Resource, Outcome, Error string
	Kind                                                                                                     string `json:"identity_kind"`
	IdentityTenant                                                                                           string `json:"identity_tenant"`
	SourceIP                                                                                                 string `json:"source_ip"`
	SourceService                                                                                            string `json:"source_service"`
	UserAgent                                                                                                string `json:"user_agent"`
	ReadOnly                                                                                                 bool   `json:"read_only"`
	ResourceTenant                                                                                           string `json:"resource_tenant"`
	Interactive                                                                                              bool
	Label                                                                                                    string `json:"_label"`
}

func (n neutral) activity(t testing.TB) (Meta, *events.Activity) {
	at, err := time.Parse(time.RFC3339, n.Time)
	if err != nil {
		t.Fatal(err)
	}
	a := &events.Activity{Identity: n.Identity, IdentityTenant: n.IdentityTenant, Credential: n.Credential, Session: n.Session,
		Workload: n.Workload, Destination: n.Destination, Action: n.Action, Resource: n.Resource, ResourceTenant: n.ResourceTenant,
		Outcome: events.Outcome(n.Outcome), Error: n.Error, SourceIP: n.SourceIP, SourceService: n.SourceService, UserAgent: n.UserAgent,
		Interactive: n.Interactive}
	if n.ReadOnly {
		a.ActionClass = events.ClassRead
	}
	return Meta{ID: n.ID, Source: "cloudtrail", Tenant: n.Tenant, Time: at}, a
}

// shared finds evaluation data beside the repository. A checkout without it says so
// and uses the module's own copy, when there is one.
func shared(t testing.TB, name string) io.Reader {
	t.Helper()
	for _, dir := range []string{filepath.Join("..", "..", "..", "..", "..", "shared", "data", "detection"), "testdata"} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("%s is absent from %s", name, dir)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if !strings.HasSuffix(name, ".gz") {
			return f
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	return nil
}

func lines[T any](t testing.TB, r io.Reader) []T {
	t.Helper()
	var out []T
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// alerts picks the alerts out of outputs.
func alerts(out []Output) []events.AnomalyDetected {
	var as []events.AnomalyDetected
	for _, o := range out {
		if a, ok := o.Payload.(events.AnomalyDetected); ok {
			as = append(as, a)
		}
	}
	return as
}
