package cloudtrail

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/sample"
)

// form is a record in the form of the evaluation data.
type form struct {
	ID             string `json:"id"`
	Time           string `json:"time"`
	Identity       string `json:"identity"`
	IdentityTenant string `json:"identity_tenant"`
	Credential     string `json:"credential"`
	Session        string `json:"session"`
	DelegatedBy    string `json:"delegated_by"`
	SourceIP       string `json:"source_ip"`
	SourceService  string `json:"source_service"`
	UserAgent      string `json:"user_agent"`
	Workload       string `json:"workload"`
	VPCE           string `json:"vpce"`
	Destination    string `json:"destination"`
	Action         string `json:"action"`
	Resource       string `json:"resource"`
	ResourceTenant string `json:"resource_tenant"`
	Outcome        string `json:"outcome"`
	Error          string `json:"error"`
	Interactive    bool   `json:"interactive"`
}

// sampleRecords calls f for every raw record of the sample.
func sampleRecords(t testing.TB, f func(file string, raw []byte)) {
	t.Helper()
	files, err := fs.Glob(sample.FS, "*.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		packed, err := fs.ReadFile(sample.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		records, err := Split(body, 10_000)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, raw := range records {
			f(name, raw)
		}
	}
}

func address(s string) string {
	a, _ := neutral.From(s)
	return a
}

// TestNeutralForm compares every record of the sample with its independently made
// neutral form, field by field.
func TestNeutralForm(t *testing.T) {
	packed, err := os.ReadFile("testdata/stratus.neutral.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]form{}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var n form
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			t.Fatal(err)
		}
		want[n.ID] = n
	}
	equal, differ, richer := map[string]int{}, map[string][]string{}, map[string]int{}
	total := 0
	sampleRecords(t, func(file string, raw []byte) {
		total++
		e, err := Event(raw, "acme", time.Unix(1_790_000_000, 0))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			return
		}
		n, ok := want[e.ID()]
		if !ok {
			t.Errorf("%s: no neutral form of %s", file, e.ID())
			return
		}
		var a events.Activity
		if err := json.Unmarshal(e.Data(), &a); err != nil {
			t.Fatal(err)
		}
		for _, f := range []struct{ name, got, want string }{
			{"time", e.Time().Format(time.RFC3339), n.Time},
			{"identity", a.Identity, n.Identity}, {"identity_tenant", a.IdentityTenant, n.IdentityTenant},
			{"credential", a.Credential, n.Credential}, {"session", a.Session, n.Session},
			{"source_ip", a.SourceIP, address(n.SourceIP)}, {"source_service", a.SourceService, n.SourceService},
			{"user_agent", a.UserAgent, n.UserAgent}, {"workload", a.Workload, n.Workload}, {"vpce", a.VPCEndpoint, n.VPCE},
			{"destination", a.Destination, n.Destination}, {"action", a.Action, n.Action}, {"resource", a.Resource, n.Resource},
			{"resource_tenant", a.ResourceTenant, n.ResourceTenant}, {"outcome", string(a.Outcome), n.Outcome}, {"error", a.Error, n.Error},
			{"interactive", fmt.Sprint(a.Interactive), fmt.Sprint(n.Interactive)},
		} {
			switch {
			case f.got == f.want:
				equal[f.name]++
			case f.want == "":
				richer[f.name]++ // we name what the neutral form leaves out
			default:
				differ[f.name] = append(differ[f.name], fmt.Sprintf("%s: got %q, want %q", e.ID(), f.got, f.want))
			}
		}
	})
	if total != 310 || len(want) != 310 {
		t.Errorf("%d records and %d neutral forms, want 310 of each", total, len(want))
	}
	var names []string
	for name := range equal {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Logf("%-16s equal %5.1f %% (%d), named only by us %d", name, 100*float64(equal[name])/float64(total), equal[name], richer[name])
	}
	for name, list := range differ {
		t.Errorf("%s differs in %d records, first: %s", name, len(list), list[0])
	}
	if richer["resource"] > 6 {
		t.Errorf("resource is named only by us in %d records, want at most 6", richer["resource"])
	}
	for name := range richer {
		if name != "resource" {
			t.Errorf("%s is named only by us in %d records", name, richer[name])
		}
	}
}
