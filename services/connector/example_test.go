package connector_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/connectortest"
)

// keyFiles is a whole connector: a system whose API keys are files in a directory.
type keyFiles struct{ dir string }

// Describe implements connector.Connector.
func (keyFiles) Describe() connector.Description {
	return connector.Description{Kind: "keyfiles", Ends: "removes the key's file", Verifies: "looks for the file"}
}

// path refuses accounts that would lead out of the directory.
func (k keyFiles) path(t connector.Target) (string, error) {
	if err := t.Check(); err != nil {
		return "", err
	}
	if t.Account != filepath.Base(t.Account) || t.Account == "." || t.Account == ".." {
		return "", connector.Refused("find key", errors.New("an account is a plain file name"))
	}
	if _, err := os.Stat(k.dir); err != nil { // without the directory nobody can tell
		return "", connector.Unreachable("find key", err)
	}
	return filepath.Join(k.dir, t.Account), nil
}

// End implements connector.Connector.
func (k keyFiles) End(ctx context.Context, t connector.Target) (connector.Result, error) {
	path, err := k.path(t)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return connector.Result{}, err
	}
	switch err := os.Remove(path); {
	case errors.Is(err, fs.ErrNotExist):
		return connector.Result{Outcome: connector.AlreadyDead}, nil
	case errors.Is(err, fs.ErrPermission):
		return connector.Result{}, connector.Refused("remove key", err)
	case err != nil:
		return connector.Result{}, connector.Unreachable("remove key", err)
	}
	return connector.Result{Outcome: connector.Enforced}, nil
}

// Verify implements connector.Connector.
func (k keyFiles) Verify(ctx context.Context, t connector.Target) (connector.Status, error) {
	path, err := k.path(t)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return connector.Status{}, err
	}
	_, err = os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return connector.Status{}, connector.Unreachable("look for key", err)
	}
	return connector.Status{Dead: err != nil, Detail: "looked for the file"}, nil
}

// A connector ends an account and proves it.
func ExampleConnector() {
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "reporting"), []byte("x"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	var c connector.Connector = keyFiles{dir}
	target := connector.Target{Request: "r1", Tenant: "acme", Secret: "reporting-key", Account: "reporting"}
	for range 2 {
		result, err := c.End(context.Background(), target)
		status, verifyErr := c.Verify(context.Background(), target)
		fmt.Println(result.Outcome, err, "dead:", status.Dead, verifyErr)
	}
	// Output:
	// enforced <nil> dead: true <nil>
	// already_dead <nil> dead: true <nil>
}

func TestExampleKeepsTheContract(t *testing.T) {
	k := keyFiles{filepath.Join(t.TempDir(), "keys")}
	if err := os.Mkdir(k.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n := 0
	name := func() connector.Target {
		n++
		return connector.Target{Request: "r", Tenant: "acme", Secret: "s", Account: "key-" + strconv.Itoa(n)}
	}
	connectortest.Run(t, connectortest.Suite{
		Connector: k,
		Account: func(t *testing.T) connector.Target {
			a := name()
			if err := os.WriteFile(filepath.Join(k.dir, a.Account), []byte("key-material"), 0o600); err != nil {
				t.Fatal(err)
			}
			return a
		},
		Alive: func(_ *testing.T, a connector.Target) bool {
			_, err := os.Stat(filepath.Join(k.dir, a.Account))
			return err == nil
		},
		Missing: func(*testing.T) connector.Target { return name() },
		Unplug: func(t *testing.T) func() {
			if err := os.Rename(k.dir, k.dir+".away"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.Rename(k.dir+".away", k.dir); err != nil {
					t.Fatal(err)
				}
			}
		},
		Secrets: []string{"key-material"},
	})
}
