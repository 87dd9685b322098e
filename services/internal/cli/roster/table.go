package roster

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	json "github.com/go-json-experiment/json"

	"github.com/lanyard-nhi/lanyard/events"
)

// column is one member of a declaration that a column may be named after.
type column struct {
	name string
	at   []int
}

// Columns are the names that a header may hold, in the order of the type.
func Columns() []string {
	var out []string
	for _, c := range columns(reflect.TypeFor[Declaration](), nil) {
		out = append(out, c.name)
	}
	return out
}

func columns(t reflect.Type, at []int) []column {
	var out []column
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			out = append(out, columns(f.Type, append(slices.Clip(at), i))...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		out = append(out, column{name, append(slices.Clip(at), i)})
	}
	return out
}

// required are the columns without which no row can be right.
var required = []string{"identity", "kind", "owner", "feature", "purpose", "kill_switch"}

// header finds out what each column holds.
func header(names []string) ([]column, error) {
	known := map[string]column{}
	for _, c := range columns(reflect.TypeFor[Declaration](), nil) {
		known[c.name] = c
	}
	out := make([]column, 0, len(names))
	for _, n := range names {
		c, ok := known[strings.ToLower(strings.TrimSpace(n))]
		if !ok {
			hint := ""
			if len(names) == 1 && strings.ContainsAny(n, ";\t") {
				hint = "; columns are separated by commas"
			}
			return nil, fmt.Errorf("the header names an unknown column %q%s: the known ones are %s", shorten(n), hint, strings.Join(Columns(), ", "))
		}
		if slices.ContainsFunc(out, func(o column) bool { return o.name == c.name }) {
			return nil, fmt.Errorf("the header names column %s twice", c.name)
		}
		out = append(out, c)
	}
	for _, n := range required {
		if !slices.ContainsFunc(out, func(c column) bool { return c.name == n }) {
			return nil, fmt.Errorf("the header lacks column %s: needed are %s", n, strings.Join(required, ", "))
		}
	}
	return out, nil
}

// limited ends the reading of a row that does not end.
type limited struct {
	r    io.Reader
	left int
}

var errEndless = errors.New("the row does not end")

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errEndless
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// table reads CSV (RFC 4180). A quote in the middle of an unquoted cell spoils one row;
// one that makes it unclear where a cell ends also ends the file, so that no text inside
// a cell is ever taken for a row.
func table(in *bufio.Reader, tenant string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		bounded := &limited{in, maxRead}
		r := csv.NewReader(bounded)
		r.FieldsPerRecord, r.ReuseRecord = -1, true
		names, err := r.Read()
		if err != nil {
			yield(Row{}, fmt.Errorf("read header: %w", err))
			return
		}
		cols, err := header(slices.Clone(names))
		if err != nil {
			yield(Row{}, err)
			return
		}
		for n := 1; ; n++ {
			bounded.left = maxRead
			cells, err := r.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			row := Row{Number: n, Entry: Declaration{Tenant: tenant}}
			bad, isParse := errors.AsType[*csv.ParseError](err)
			switch {
			case err == nil:
				row.Line, _ = r.FieldPos(0)
				row.Record = show(cols, cells)
				row.Err = fill(&row.Entry, cols, cells)
			case isParse && errors.Is(err, csv.ErrBareQuote):
				row.Line, row.Err = bad.StartLine, fmt.Errorf("line %d, column %d: %w: write a cell with a quote in it as \"...\"\"...\"", bad.Line, bad.Column, bad.Err)
			case isParse:
				row.Line, row.Err = bad.StartLine, fmt.Errorf("line %d, column %d: %w; %w", bad.Line, bad.Column, bad.Err, errLost)
			case errors.Is(err, errEndless):
				row.Err = fmt.Errorf("%w within %d bytes: is a quote never closed? %w", errEndless, maxRead, errLost)
			default:
				yield(row, fmt.Errorf("read row %d: %w", n, err))
				return
			}
			if !yield(row, nil) {
				return
			}
			if errors.Is(row.Err, errLost) {
				yield(Row{}, fmt.Errorf("row %d: %w", n, row.Err))
				return
			}
		}
	}
}

// show is what stands in a row, by column.
func show(cols []column, cells []string) any {
	out := make(map[string]string, len(cells))
	for i, c := range cells {
		name := "column " + strconv.Itoa(i+1)
		if i < len(cols) {
			name = cols[i].name
		}
		if c != "" {
			out[name] = strings.ToValidUTF8(shorten(c), "\uFFFD")
		}
		if i > len(cols)+8 {
			break
		}
	}
	return out
}

// fill reads the cells of one row.
func fill(d *Declaration, cols []column, cells []string) error {
	if len(cells) != len(cols) {
		return fmt.Errorf("it has %d cells, the header names %d columns", len(cells), len(cols))
	}
	size := 0
	for _, c := range cells {
		size += len(c)
	}
	if size > maxRow {
		return tooLong(size)
	}
	v := reflect.ValueOf(d).Elem()
	for i, c := range cols {
		if !utf8.ValidString(cells[i]) {
			return fmt.Errorf("%s is not UTF-8", c.name)
		}
		if cell := strings.TrimSpace(cells[i]); cell != "" {
			if err := set(v.FieldByIndex(c.at), c.name, cell); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// phrases are lists whose items hold spaces; only ";" separates them.
var phrases = map[string]bool{"data_reached": true, "unknowns": true}

// set reads one cell. Lists are separated by spaces or ";", ways of attestation are
// written ISSUER=SUBJECT, and what is neither text, list, number nor truth is JSON.
func set(v reflect.Value, name, cell string) error {
	switch to := v.Addr().Interface().(type) {
	case *[]string:
		*to = items(cell, phrases[name])
		return nil
	case *[]events.Attestation:
		for _, s := range items(cell, false) {
			iss, sub, ok := strings.Cut(s, "=")
			if !ok {
				return fmt.Errorf("%q is not ISSUER=SUBJECT", shorten(s))
			}
			*to = append(*to, events.Attestation{Issuer: iss, Subject: sub})
		}
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(cell)
	case reflect.Bool:
		switch strings.ToLower(cell) {
		case "true", "yes", "1":
			v.SetBool(true)
		case "false", "no", "0":
		default:
			return fmt.Errorf("%q is neither true nor false", shorten(cell))
		}
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(cell, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", shorten(cell))
		}
		v.SetInt(n)
	default:
		if err := json.Unmarshal([]byte(cell), v.Addr().Interface(), json.RejectUnknownMembers(true)); err != nil {
			return fmt.Errorf("it is not the JSON that it must be: %w", err)
		}
	}
	return nil
}

func items(cell string, phrase bool) []string {
	var out []string
	for s := range strings.FieldsFuncSeq(cell, func(r rune) bool { return r == ';' || !phrase && (r == ' ' || r == '\n' || r == '\t') }) {
		if s = strings.TrimSpace(s); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
