package config

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

//go:embed config.go
var source string

//go:embed downstream.go
var downstreamSource string

// Example is an annotated configuration file: every field with its comment and its
// default. It is made from the types' own comments, so it cannot differ from them.
func Example() (string, error) {
	e := exampler{docs: map[string]string{}}
	for name, text := range map[string]string{"config.go": source, "downstream.go": downstreamSource} {
		f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			return "", fmt.Errorf("make example: %w", err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if g, ok := n.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				for _, s := range g.Specs {
					e.add(s.(*ast.TypeSpec), g.Doc.Text()) // a type declaration holds type specifications only
				}
			}
			return true
		})
	}
	e.out.WriteString("# Configuration of Lanyard. Every field is optional and shown with its default;\n" +
		"# unknown fields are errors. A variable LANYARD_<SECTION>_<FIELD> overrides a field,\n" +
		"# such as LANYARD_NATS_URL. Check a file with: lanyard config check FILE\n")
	c := Default("")
	c.Keys, c.Rotation.Overlap = "", 0 // empty, so that they follow the fields they derive from
	if err := e.section(reflect.ValueOf(c), ""); err != nil {
		return "", err
	}
	return e.out.String(), nil
}

type exampler struct {
	docs map[string]string // by type name, and "Type.Field"
	out  strings.Builder
}

func (e *exampler) add(s *ast.TypeSpec, doc string) {
	e.docs[s.Name.Name] = doc
	if t, ok := s.Type.(*ast.StructType); ok {
		for _, f := range t.Fields.List {
			for _, n := range f.Names {
				e.docs[s.Name.Name+"."+n.Name] = f.Doc.Text()
			}
		}
	}
}

func (e *exampler) section(v reflect.Value, indent string) error {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		doc := e.docs[t.Name()+"."+f.Name]
		if f.Type.Kind() == reflect.Struct {
			e.out.WriteString("\n")
			e.comment(e.docs[f.Type.Name()], f.Type.Name(), key, indent)
			fmt.Fprintf(&e.out, "%s%s:\n", indent, key)
			if err := e.section(v.Field(i), indent+"  "); err != nil {
				return err
			}
			continue
		}
		if doc == "" {
			return fmt.Errorf("make example: %s.%s has no comment", t.Name(), f.Name)
		}
		e.comment(doc, f.Name, key, indent)
		if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
			fmt.Fprintf(&e.out, "%s%s: []\n", indent, key)
			e.element(f.Type.Elem(), indent+"  ")
			continue
		}
		b, err := yaml.Marshal(v.Field(i).Interface())
		if err != nil {
			return fmt.Errorf("make example: %s: %w", key, err)
		}
		text := strings.TrimSpace(string(b))
		if f.Type.Kind() == reflect.Slice {
			text = "[" + strings.ReplaceAll(strings.TrimPrefix(text, "- "), "\n- ", ", ") + "]"
			text = strings.Replace(text, "[[]]", "[]", 1)
		}
		fmt.Fprintf(&e.out, "%s%s: %s\n", indent, key, text)
	}
	return nil
}

// element shows the fields of a list's elements as comments.
func (e *exampler) element(t reflect.Type, indent string) {
	lead := "- "
	for f := range t.Fields() {
		e.comment(e.docs[t.Name()+"."+f.Name], f.Name, f.Tag.Get("yaml"), indent+"# ")
		fmt.Fprintf(&e.out, "%s# %s%s:\n", indent, lead, f.Tag.Get("yaml"))
		lead = "  "
	}
}

// comment writes a doc comment, with the Go name it begins with as the YAML key.
func (e *exampler) comment(doc, name, key, indent string) {
	doc = strings.TrimSpace(doc)
	if rest, ok := strings.CutPrefix(doc, name); ok {
		doc = key + rest
	}
	for line := range strings.SplitSeq(doc, "\n") {
		fmt.Fprintf(&e.out, "%s# %s\n", indent, line)
	}
}
