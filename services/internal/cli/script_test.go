package cli

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lanyard": func() { os.Exit(Main()) }})
}

// TestScripts runs the command as a user does. Scripts in testdata/script need
// nothing; those in testdata/running find a running Lanyard in $DATA.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

func TestScriptsRunning(t *testing.T) {
	dir := t.TempDir()
	sys, err := allinone.Start(context.Background(), allinone.Options{Config: config.Default(dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Stop(); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "running"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("LANYARD_DATA", dir)
			e.Setenv("OIDC", sys.Endpoints.LocalOIDC)
			e.Setenv("INTAKE", sys.Endpoints.Intake)
			e.Setenv("ISSUER", sys.Endpoints.Issuer)
			return nil
		},
	})
}
