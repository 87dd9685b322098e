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

// onData runs f on the module's own copy of the named files and on the whole data
// beside the repository. A checkout without the latter says so.
func onData(t *testing.T, names []string, f func(t *testing.T, files []io.Reader)) {
	t.Helper()
	whole := filepath.Join("..", "..", "..", "..", "..", "shared", "data", "detection")
	for _, d := range []struct{ name, dir string }{{"own", "testdata"}, {"whole", whole}} {
		if _, err := os.Stat(filepath.Join(d.dir, names[0])); errors.Is(err, fs.ErrNotExist) && d.dir == whole {
			t.Logf("%s is not beside the repository; tested on the module's own copy only", names[0])
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			var files []io.Reader
			for _, n := range names {
				files = append(files, open(t, filepath.Join(d.dir, n)))
			}
			f(t, files)
		})
	}
}

func open(t *testing.T, path string) io.Reader {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if !strings.HasSuffix(path, ".gz") {
		return f
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return z
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
