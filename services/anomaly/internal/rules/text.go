package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// part is a piece of a message: text, or the name of what is filled in.
type part struct {
	text, name string
}

// special are the names besides the event's fields. It is a read-only table.
var special = []string{"count", "values", "within", "first", "last"}

// parts splits a message and lists the names that are not known. "{{" is a brace.
func parts(message string, t *table) (out []part, unknown []string) {
	for rest := message; rest != ""; {
		i := strings.IndexByte(rest, '{')
		if i < 0 {
			return append(out, part{text: rest}), unknown
		}
		if strings.HasPrefix(rest[i:], "{{") {
			out = append(out, part{text: rest[:i+1]})
			rest = rest[i+2:]
			continue
		}
		out = append(out, part{text: rest[:i]})
		name, after, ok := strings.Cut(rest[i+1:], "}")
		if !ok {
			return out, append(unknown, clip(rest[i+1:], 40))
		}
		if t.kinds[name] == "" && !slices.Contains(special, name) {
			unknown = append(unknown, clip(name, 40))
		}
		out = append(out, part{name: name})
		rest = after
	}
	return out, unknown
}

// render fills the message in.
func (r *Rule) render(f *Finding) string {
	var b strings.Builder
	for _, p := range r.message {
		switch p.name {
		case "":
			b.WriteString(p.text)
		case "count":
			fmt.Fprint(&b, f.Count)
		case "values":
			b.WriteString(strings.Join(f.Values, ", "))
		case "within":
			b.WriteString(span(r.Within))
		case "first":
			b.WriteString(f.First.Format(time.RFC3339))
		case "last":
			b.WriteString(f.Last.Format(time.RFC3339))
		default:
			b.WriteString(clip(r.table.text(&f.Event, p.name), 160))
		}
	}
	return clip(b.String(), 1800)
}
