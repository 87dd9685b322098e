package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

var update = flag.Bool("update", false, "write the diagram into the README")

// TestReadmeTopology keeps the README's picture equal to what the handler tables say.
func TestReadmeTopology(t *testing.T) {
	top, err := service.Describe(config.Default(t.TempDir()), allinone.Services()...)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "..", "README.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := []byte("<!-- topology -->\n"), []byte("<!-- /topology -->")
	head, rest, ok := bytes.Cut(b, begin)
	_, tail, ok2 := bytes.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("README.md has lost its topology markers")
	}
	want := bytes.Join([][]byte{head, begin, []byte("```mermaid\n" + top.Mermaid() + "```\n"), end, tail}, nil)
	if bytes.Equal(b, want) {
		return
	}
	if !*update {
		t.Fatal("the README's topology is not what the handler tables say; run: cd services && go test ./internal/cli -run Topology -update")
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
}
