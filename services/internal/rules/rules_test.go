package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/lanyard-nhi/lanyard/"

// file is one parsed Go file; path is relative to the repository, with slashes.
type file struct {
	path  string
	ast   *ast.File
	lines int
	fset  *token.FileSet
}

func (f file) test() bool  { return strings.HasSuffix(f.path, "_test.go") }
func (f file) dir() string { return filepath.ToSlash(filepath.Dir(f.path)) }
func (f file) under(d string) bool {
	return f.dir() == d || strings.HasPrefix(f.dir(), d+"/")
}

func (f file) imports() []string {
	var out []string
	for _, i := range f.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err == nil {
			out = append(out, p)
		}
	}
	return out
}

// load parses every Go file of the workspace, once.
func load(t *testing.T) []file {
	t.Helper()
	files, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found only %d Go files: is this the repository?", len(files))
	}
	return files
}

var parsed = sync.OnceValues(parse)

func parse() ([]file, error) {
	root := filepath.Join("..", "..", "..")
	var files []file
	for _, mod := range []string{"events", "schemas", "services"} {
		err := filepath.WalkDir(filepath.Join(root, mod), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2) {
				return fs.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(p, ".go") {
				return nil
			}
			fset := token.NewFileSet()
			a, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			files = append(files, file{filepath.ToSlash(rel), a, fset.File(a.Pos()).LineCount(), fset})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// bans: who may import what, and why nobody else may.
var bans = []struct {
	imports string   // prefix of an import path
	allowed []string // directories (and what is under them)
	tests   bool     // tests may import it anywhere
	why     string
}{
	{"github.com/nats-io/nats.go", []string{"services/internal/bus", "events/guard/natsfeed", "services/internal/bench", "services/connector/nats", "services/internal/downstreamtest"}, true,
		"one package talks to NATS, so that durability, ids and permissions are decided once (benches measure the bare client as the limit)"},
	{"github.com/nats-io/nats-server", []string{"services/internal/embedded", "services/internal/bus/bustest", "services/internal/bench", "services/cmd/nats-server", "services/internal/downstreamtest"}, true,
		"the server is started in one place; products never link it"},
	{"github.com/ThreeDotsLabs/watermill", []string{"services/internal/bus", "services/internal/bench"}, true,
		"handlers know events, not a router"},
	{"github.com/redis/go-redis", []string{"services/internal/state", "services/connector/redis"}, true,
		"Redis holds projections only; nothing else may come to rely on it"},
	{"github.com/alicebob/miniredis", []string{"services/internal/embedded"}, true,
		"the embedded Redis is started in one place"},
	{"github.com/jackc/pgx", []string{"services/connector/postgres", "services/internal/downstreamtest"}, true,
		"PostgreSQL is a system to end accounts in, not one to keep things in"},
	{"code.dny.dev/ssrf", []string{"services/internal/outbound"}, false,
		"there is one SSRF-safe client"},
	{"net/http/pprof", nil, false, "its import registers handlers on the default mux"},
	{"github.com/spf13/cobra", []string{"services/internal/cli"}, false, "only the command parses command lines"},
	{"unsafe", nil, false, "nothing here is worth it"},
}

func TestImports(t *testing.T) {
	for _, f := range load(t) {
		for _, imp := range f.imports() {
			for _, b := range bans {
				if imp != b.imports && !strings.HasPrefix(imp, b.imports+"/") || b.tests && f.test() {
					continue
				}
				if !slices.ContainsFunc(b.allowed, f.under) {
					t.Errorf("%s imports %s: %s", f.path, imp, b.why)
				}
			}
		}
	}
}

// serviceNames are the services; each has one door, New, and they meet only in events.
var serviceNames = []string{"intake", "issuance", "anomaly", "rotation", "revocation", "guard"}

func TestServicesMeetOnlyInEvents(t *testing.T) {
	for _, f := range load(t) {
		for _, from := range serviceNames {
			if !f.under("services/"+from) || f.test() {
				continue
			}
			for _, to := range serviceNames {
				for _, imp := range f.imports() {
					if to != from && (imp == module+"services/"+to || strings.HasPrefix(imp, module+"services/"+to+"/")) {
						t.Errorf("%s imports %s: services meet only in events", f.path, imp)
					}
				}
			}
		}
		if f.under("services/internal/bus") || f.under("services/internal/state") {
			for _, imp := range f.imports() {
				for _, s := range serviceNames {
					if imp == module+"services/"+s {
						t.Errorf("%s imports %s: shared machinery knows no service", f.path, imp)
					}
				}
			}
		}
	}
}

func TestEventsStayLight(t *testing.T) {
	for _, f := range load(t) {
		if !f.under("events") {
			continue
		}
		for _, imp := range f.imports() {
			if strings.HasPrefix(imp, module+"services") {
				t.Errorf("%s imports %s: products import events, never services", f.path, imp)
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	seen := map[string]string{}
	for _, f := range load(t) {
		if f.test() {
			continue
		}
		seen[f.dir()] = f.ast.Name.Name
		if f.ast.Doc != nil && len(f.ast.Doc.Text()) > 40 {
			documented[f.dir()] = true
		}
	}
	for d := range seen {
		if !documented[d] {
			t.Errorf("%s: the package comment that says what it is for and who may import it is missing", d)
		}
	}
}

func TestPackageNames(t *testing.T) {
	for _, f := range load(t) {
		switch strings.TrimSuffix(f.ast.Name.Name, "_test") {
		case "common", "util", "utils", "helpers", "types", "models":
			t.Errorf("%s: package %s says nothing about what is in it", f.path, f.ast.Name.Name)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, f := range load(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init runs behind everybody's back; pass what it makes", f.path)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for _, f := range load(t) {
		if f.test() {
			continue
		}
		if f.lines > 500 {
			t.Errorf("%s has %d lines; split it", f.path, f.lines)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > 80 {
				t.Errorf("%s: %s has %d lines; split it", f.path, fn.Name.Name, n)
			}
		}
	}
}

// wallClock lists who may read the wall clock: the edges that hand it to everybody else.
var wallClock = []string{"services/internal/service", "services/internal/cli", "services/internal/operator",
	"services/internal/bench", "services/internal/embedded", "services/internal/allinone", "services/internal/demo",
	"services/internal/bus", "services/internal/deployment", "services/cmd"}

// clockDefaults are the files in which a library falls back on the clock when it is given none.
var clockDefaults = []string{"events/guard/clock_other.go", "events/guard/remotekeys.go", "services/internal/state/store.go"}

func TestClockIsInjected(t *testing.T) {
	for _, f := range load(t) {
		if f.test() || slices.ContainsFunc(wallClock, f.under) || slices.Contains(clockDefaults, f.path) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && (sel.Sel.Name == "Now" || sel.Sel.Name == "Since") {
				t.Errorf("%s: time.%s called; the clock comes through Env or Config", f.fset.Position(call.Pos()), sel.Sel.Name)
			}
			return true
		})
	}
}

// pollers are the functions of tests that look again and again until a deadline.
var pollers = []string{"eventually", "until"}

func TestNoSleepInTests(t *testing.T) {
	for _, f := range load(t) {
		if !f.test() {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && slices.Contains(pollers, fn.Name.Name) {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && sel.Sel.Name == "Sleep" {
						t.Errorf("%s: time.Sleep in a test; wait for what you expect, in a function called eventually or until", f.fset.Position(sel.Pos()))
					}
				}
				return true
			})
		}
	}
}

func TestNoLooseEnds(t *testing.T) {
	for _, f := range load(t) {
		for _, g := range f.ast.Comments {
			for _, w := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"} {
				if strings.Contains(g.Text(), w) {
					t.Errorf("%s: %s in a comment; make it an issue", f.fset.Position(g.Pos()), w)
				}
			}
		}
		if f.test() {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "panic" && len(call.Args) == 1 {
					if lit, ok := call.Args[0].(*ast.BasicLit); ok && strings.Contains(lit.Value, "being built") {
						t.Errorf("%s: not built yet", f.fset.Position(call.Pos()))
					}
				}
			}
			return true
		})
	}
}
