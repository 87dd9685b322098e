package demo

import (
	"fmt"
	"io"
	"strings"

	"charm.land/lipgloss/v2"
)

// Screen is a Reporter for people: colour on a terminal, plain elsewhere.
type Screen struct {
	W      io.Writer
	Colour bool
	step   int
}

func (s *Screen) paint(code, text string) string {
	if !s.Colour {
		return text
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(code)).Render(text)
}

// Step implements Reporter.
func (s *Screen) Step(title string) {
	s.step++
	head := fmt.Sprintf("%d  %s", s.step, title)
	if s.Colour {
		head = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("75")).Render(head)
	}
	fmt.Fprintf(s.W, "\n%s\n", head)
}

// Line implements Reporter.
func (s *Screen) Line(format string, args ...any) { s.print("245", "  ", format, args) }

// Good implements Reporter.
func (s *Screen) Good(format string, args ...any) { s.print("42", "  ok  ", format, args) }

// Bad implements Reporter.
func (s *Screen) Bad(format string, args ...any) { s.print("203", "  !!  ", format, args) }

func (s *Screen) print(code, lead, format string, args []any) {
	text := strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, fmt.Sprintf(format, args...))
	fmt.Fprintln(s.W, s.paint(code, lead+text))
}

// Quiet is a Reporter that shows nothing, for --json.
type Quiet struct{}

// Step implements Reporter.
func (Quiet) Step(string) {}

// Line implements Reporter.
func (Quiet) Line(string, ...any) {}

// Good implements Reporter.
func (Quiet) Good(string, ...any) {}

// Bad implements Reporter.
func (Quiet) Bad(string, ...any) {}
