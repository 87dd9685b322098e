package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// text is what an SVG shows, and fails when it is no well-formed XML.
func text(t *testing.T, svg []byte) string {
	t.Helper()
	var out strings.Builder
	shown := false
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := tok.(type) {
		case xml.StartElement:
			shown = x.Name.Local == "text"
			if x.Name.Local == "script" || x.Name.Local == "image" || x.Name.Local == "a" {
				t.Errorf("the drawing has an element %s", x.Name.Local)
			}
		case xml.EndElement:
			shown = false
		case xml.CharData:
			if shown {
				out.Write(x)
				out.WriteByte('\n')
			}
		}
	}
}

func TestDraw(t *testing.T) {
	var out bytes.Buffer
	graph := `digraph { n0 [label="a \"b\" \\N &amp;lt; <script>alert(1)</script>"]; n0 -> n1; n1 [label="two\nlines"] }`
	if err := draw(t.Context(), strings.NewReader(graph), &out); err != nil {
		t.Fatal(err)
	}
	if got, want := text(t, out.Bytes()), "a \"b\" \\N &lt; <script>alert(1)</script>\ntwo\nlines\n"; got != want {
		t.Errorf("the drawing shows %q, want %q", got, want)
	}
}

func TestDrawRefuses(t *testing.T) {
	for name, graph := range map[string]string{"no graph": "hello", "broken": `digraph { a [label="x`, "nothing": "", "huge": strings.Repeat(" ", most+1)} {
		if err := draw(t.Context(), strings.NewReader(graph), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
