// Command lanyard-draw reads a graph in Graphviz' DOT language from its input and
// writes it as SVG. It is what lanyard runs to draw, and a command of its own because
// the Graphviz that it holds is compiled anew at each start, which takes a second that
// no other command shall wait.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-graphviz"
)

// most is the size of the largest graph that is read, in bytes.
const most = 4 << 20

func main() {
	if err := draw(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "lanyard-draw:", err)
		os.Exit(1)
	}
}

// draw lays out the graph on in as dot does and writes it to out as SVG.
func draw(ctx context.Context, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return fmt.Errorf("read graph: %w", err)
	}
	if len(text) > most {
		return fmt.Errorf("read graph: it is larger than %d bytes", most)
	}
	g, err := graphviz.New(ctx)
	if err != nil {
		return fmt.Errorf("start Graphviz: %w", err)
	}
	defer func() { _ = g.Close() }()
	graph, err := graphviz.ParseBytes(text)
	if err != nil {
		return fmt.Errorf("parse graph: %w", err)
	}
	if graph == nil { // and no error, when Graphviz had refused another text before
		return errors.New("parse graph: it holds none")
	}
	defer func() { _ = graph.Close() }()
	if err := g.SetLayout(graphviz.DOT).Render(ctx, graph, graphviz.SVG, out); err != nil {
		return fmt.Errorf("draw graph: %w", err)
	}
	return nil
}
