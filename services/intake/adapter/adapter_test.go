package adapter

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
)

var update = flag.Bool("update", false, "write the golden files, which must then be read")

var seen = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func input(body []byte) Input {
	return Input{Body: body, Tenant: "acme", Seen: seen, Limit: 1000, Key: []byte("a key for tests"), Instance: "prod-1", WholeTraces: true}
}

// example is the example delivery of an adapter; "" when its package has tests of its own.
func example(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// line is an event as the golden files show it.
func line(it Item) string {
	if it.Err != nil {
		return fmt.Sprintf("%s: %v", map[bool]string{true: "skipped", false: "refused"}[errors.Is(it.Err, ErrSkip)], it.Err)
	}
	var data map[string]any
	if err := json.Unmarshal(it.Event.Data(), &data); err != nil {
		return err.Error()
	}
	delete(data, "observed_time")
	b, err := json.Marshal(data)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %s %s %s", it.Event.ID(), it.Event.Time().Format(time.RFC3339Nano), it.Event.Source(),
		strings.TrimPrefix(it.Event.Type(), "dev.lanyard.activity."), b)
}

// TestExamples reads the example delivery of every source.
func TestExamples(t *testing.T) {
	for _, a := range Table() {
		if a.Name == "cloudtrail" {
			continue // measured on real records
		}
		t.Run(a.Name, func(t *testing.T) {
			items, err := a.Read(input(example(t, a.Name)))
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, it := range items {
				fmt.Fprintln(&got, line(it))
				if it.Err == nil && events.Validate(it.Event) != nil {
					t.Errorf("%s is not valid", it.ID)
				}
			}
			if strings.Contains(got.String(), "PLANTED") {
				t.Errorf("what must not come out came out:\n%s", got.String())
			}
			file := filepath.Join("testdata", "golden", a.Name+".jsonl")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got.String()); d != "" {
				t.Error(d)
			}
		})
	}
}
