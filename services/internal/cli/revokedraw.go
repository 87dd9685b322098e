package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// branch is a thing of a preview and what hangs from it.
type branch struct {
	name  string
	about []string
	below []branch
	more  int    // things below that are not named
	what  string // those are
}

// tree is the preview of a revoke of arg as a branch.
func (p revokePreview) tree(arg string) branch {
	root := branch{name: arg, about: []string{count(p.Descendants, "live credential")}, more: p.Tree.More, what: "tenants"}
	for _, t := range p.Tree.Tenants {
		of := branch{name: t.Tenant, about: []string{count(t.Credentials, "live credential")}, more: t.More, what: "identities"}
		if t.Hidden {
			of.about = append(of.about, "not yours to see")
		}
		for _, i := range t.Identities {
			who := branch{name: i.Identity, about: []string{"owner " + or(i.Owner, "-"), "feature " + or(i.Feature, "-"), count(i.Credentials, "live credential")}, more: i.More, what: "tasks"}
			for _, task := range i.Tasks {
				who.below = append(who.below, branch{name: "task " + or(task.Task, "-"), about: []string{count(task.Credentials, "live credential") + " until " + clock(task.Until)}})
			}
			of.below = append(of.below, who)
		}
		root.below = append(root.below, of)
	}
	return root
}

// drawing is the tree with all that a terminal shows beside it.
func (p revokePreview) drawing(arg string) branch {
	root := p.tree(arg)
	if p.Tree.Cut || p.Truncated {
		root.about = append(root.about, "below the tenants a lower bound")
	}
	var secrets []branch
	for _, s := range p.Secrets {
		secrets = append(secrets, branch{name: count(s.Count, "long-lived secret") + " in " + s.Downstream, about: []string{or(s.Ends, s.Problem)}})
	}
	root.below = append(secrets, root.below...)
	return root
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// treeWidth is how many things of a level a terminal shows.
const treeWidth = 12

// print writes what is below b, one thing a line.
func (b branch) print(w io.Writer, indent string) {
	shown := b.below[:min(len(b.below), treeWidth)]
	more := b.more + len(b.below) - len(shown)
	for i, c := range shown {
		edge, deeper := "├─ ", "│  "
		if i == len(shown)-1 && more == 0 {
			edge, deeper = "└─ ", "   "
		}
		fmt.Fprintf(w, "%s%s%s  %s\n", indent, edge, clean(c.name), clean(strings.Join(c.about, ", ")))
		c.print(w, indent+deeper)
	}
	if more > 0 {
		fmt.Fprintf(w, "%s└─ ... %d more %s\n", indent, more, b.what)
	}
}

// dot writes b in Graphviz' DOT language, with at most so many nodes, the levels from
// the top; 0: all.
func (b branch) dot(w io.Writer, most int) error {
	type node struct {
		branch
		parent int
	}
	var out strings.Builder
	out.WriteString("digraph preview {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"Helvetica\", fontsize=11];\n")
	nodes := []node{{b, -1}}
	for i := 0; i < len(nodes); i++ {
		n := nodes[i]
		lines := append([]string{n.name}, n.about...)
		for j, c := range n.below {
			if most > 0 && len(nodes) >= most {
				n.more += len(n.below) - j
				break
			}
			nodes = append(nodes, node{c, i})
		}
		if n.more > 0 {
			lines = append(lines, fmt.Sprintf("and %d more %s", n.more, n.what))
		}
		fmt.Fprintf(&out, "  n%d [label=%s];\n", i, dotLabel(lines))
		if n.parent >= 0 {
			fmt.Fprintf(&out, "  n%d -> n%d;\n", n.parent, i)
		}
	}
	out.WriteString("}\n")
	_, err := io.WriteString(w, out.String())
	return err
}

// dotLabel quotes lines as one label that shows them as they are. In a label a backslash
// begins an escape and an ampersand an HTML entity.
func dotLabel(lines []string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `&`, `&amp;`)
	quoted := make([]string, len(lines))
	for i, l := range lines {
		quoted[i] = escape.Replace(clean(l))
	}
	return `"` + strings.Join(quoted, `\n`) + `"`
}

const (
	drawMost = 200              // nodes of a drawing
	drawWait = 60 * time.Second // for the drawing
	drawer   = "lanyard-draw"   // the command that draws
)

// drawSVG writes b to a file as SVG.
func drawSVG(ctx context.Context, b branch, file string) error {
	tool, err := findDrawer()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, drawWait)
	defer cancel()
	var in, svg, complaint bytes.Buffer
	if err := b.dot(&in, drawMost); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, tool)
	c.Env = []string{} // it needs nothing, least of all a token
	c.Stdin, c.Stdout, c.Stderr = &in, &svg, &complaint
	if err := c.Run(); err != nil {
		said, _, _ := strings.Cut(complaint.String(), "\n")
		return fmt.Errorf("draw with %s: %w: %s; --dot prints the same graph for any Graphviz", tool, err, clean(said))
	}
	if err := os.WriteFile(file, svg.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write drawing: %w", err)
	}
	return nil
}

// findDrawer finds the command that draws, beside this one or in the PATH.
func findDrawer() (string, error) {
	if self, err := os.Executable(); err == nil {
		if tool, err := exec.LookPath(filepath.Join(filepath.Dir(self), drawer)); err == nil {
			return tool, nil
		}
	}
	tool, err := exec.LookPath(drawer)
	if err != nil {
		return "", errors.New(drawer + ", which draws SVG, is neither beside lanyard nor in the PATH: install it, or use --dot and any Graphviz (dot -Tsvg)")
	}
	return tool, nil
}
