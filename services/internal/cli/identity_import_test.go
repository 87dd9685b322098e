package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// roll is a file of n identities.
func roll(n int) string {
	var b strings.Builder
	b.WriteString("tenant,identity,kind,owner,feature,purpose,kill_switch,scopes\n")
	for i := range n {
		fmt.Fprintf(&b, "acme,bot-%05d,agent,ana@acme.example,feature-%d,\"helps, row %d\",identity,a.read;b.read\n", i, i%50, i)
	}
	return b.String()
}

// interrupting calls stop when it is read the second time.
type interrupting struct {
	parts []string
	stop  func()
}

func (r *interrupting) Read(p []byte) (int, error) {
	if len(r.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.parts[0])
	if r.parts[0] = r.parts[0][n:]; r.parts[0] == "" {
		if r.parts = r.parts[1:]; len(r.parts) == 1 {
			r.stop()
		}
	}
	return n, nil
}

// TestImportInterrupted: whoever is interrupted says how far it got, and goes on by
// running the command again.
func TestImportInterrupted(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(t.TempDir())
	sys, err := allinone.Start(context.Background(), allinone.Options{Config: config.Default(dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Stop(); err != nil {
			t.Error(err)
		}
	})
	const n = 400
	run := func(ctx context.Context, in io.Reader) (code int, got imported, said string) {
		var out, errw bytes.Buffer
		code = Run(ctx, []string{"--data", dir, "identity", "import", "-", "--json"}, in, &out, &errw)
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%v: %s%s", err, out.String(), errw.String())
		}
		return code, got, errw.String()
	}
	ctx, stop := context.WithCancel(t.Context())
	text := roll(n)
	code, first, said := run(ctx, &interrupting{parts: []string{text[:len(text)/2], text[len(text)/2:]}, stop: stop})
	if code != exitFailed || first.Complete || first.Rows == n || !strings.Contains(said, "interrupted; what is registered stays, run the command again to go on") {
		t.Errorf("interrupted: exit %d, %+v, %s", code, first, said)
	}
	code, second, said := run(t.Context(), strings.NewReader(text))
	if code != exitOK || !second.Complete || second.Registered != n-first.Registered || second.Unchanged != first.Registered || second.Refused != 0 {
		t.Errorf("gone on: exit %d, %+v after %+v, %s", code, second, first, said)
	}
	if code, third, _ := run(t.Context(), strings.NewReader(text)); code != exitOK || third.Unchanged != n {
		t.Errorf("again: exit %d, %+v", code, third)
	}
}
