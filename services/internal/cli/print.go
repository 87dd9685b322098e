package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"
)

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes rows in aligned columns under a header. Every cell is made safe
// to print, since names come from outside.
func table(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = clean(c)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// clean replaces control characters, so that no name can move the cursor or hide text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return '?'
		}
		return r
	}, s)
}

// palette colours text on a terminal and leaves it plain elsewhere.
type palette struct{ on bool }

// colours are on when w is a terminal and NO_COLOR is not set.
func colours(w io.Writer) palette {
	f, ok := w.(*os.File)
	return palette{on: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p palette) paint(code, s string) string {
	if !p.on {
		return s
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(code)).Render(s)
}

func (p palette) good(s string) string { return p.paint("42", s) }
func (p palette) bad(s string) string  { return p.paint("203", s) }
func (p palette) warn(s string) string { return p.paint("214", s) }
func (p palette) dim(s string) string  { return p.paint("245", s) }
func (p palette) head(s string) string {
	if !p.on {
		return s
	}
	return lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("75")).Render(s)
}

// severity colours a severity.
func (p palette) severity(s string) string {
	switch s {
	case "critical", "high":
		return p.bad(s)
	case "medium":
		return p.warn(s)
	}
	return p.dim(s)
}

// ms is a duration in milliseconds for people.
func ms(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f ms", v)
	case v < 1000:
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.2f s", v/1000)
}

// clock is a time for people, UTC.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}
