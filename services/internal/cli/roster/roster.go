// Package roster reads registrations in bulk from CSV or JSON lines, row by row and in
// bounded memory. Every row is either one complete registration or a reason why it is
// none. Only the command imports it.
package roster

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Declaration is a registration and the tenant it belongs to, as it is declared.
type Declaration struct {
	Tenant string `json:"tenant"`
	events.Registration
}

// Row is one row of a file.
type Row struct {
	Number int         // from 1; the header of CSV is not counted, nor are blank lines
	Line   int         // of the file on which it begins, from 1
	Record any         // what stands there, to be shown: text, or cells by column; long ones cut
	Entry  Declaration // valid when Err is nil
	Err    error       // what is wrong with it, for people
}

const (
	maxRow  = 48 << 10 // bytes of a row; what is declared must fit into an event
	maxRead = 16 << 20 // bytes that are read in search of the end of one row
	maxShow = 1 << 10  // bytes of a cell or line in a report
)

// errLost means that nobody can tell where the next row begins.
var errLost = errors.New("the rows after it were not read, as nobody can tell where they begin")

// Read yields the rows of in, which may be gzip and may begin with a byte order mark. A
// file that begins with "{" is JSON lines, any other is CSV with a header that names the
// columns. tenant is that of rows that name none. The error ends the file: it is about
// the header, the reading, or a row after which no other can be found; that row has been
// yielded.
func Read(in io.Reader, tenant string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		seen := map[[2]string]int{}
		for row, err := range split(in, tenant) {
			if err == nil && row.Err == nil {
				row.Err = check(row.Entry, seen, row.Number)
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

func split(in io.Reader, tenant string) iter.Seq2[Row, error] {
	r := bufio.NewReaderSize(in, 64<<10)
	if head, err := r.Peek(2); err == nil && bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return failed(fmt.Errorf("read gzip: %w", err))
		}
		r = bufio.NewReaderSize(z, 64<<10)
	}
	if head, err := r.Peek(3); err == nil && string(head) == "\ufeff" {
		_, _ = r.Discard(3) // it was just there
	}
	switch first, err := firstByte(r); {
	case errors.Is(err, io.EOF):
		return failed(errors.New("the file is empty: want CSV with a header, or one JSON object a line"))
	case err != nil:
		return failed(err)
	case first == 0xff || first == 0xfe || first == 0:
		return failed(errors.New("the file is not UTF-8: save it as UTF-8"))
	case first == '[':
		return failed(errors.New("the file is a JSON array: write one object a line, or use 'lanyard identity declare --file'"))
	case first == '{':
		return jsonLines(r, tenant)
	}
	return table(r, tenant)
}

func failed(err error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) { yield(Row{}, err) }
}

// firstByte is the first byte that is not white space; it reads nothing away.
func firstByte(r *bufio.Reader) (byte, error) {
	for n := 1; ; n++ {
		b, err := r.Peek(n)
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = errors.New("the file begins with nothing but white space")
			}
			return 0, err
		}
		if c := b[n-1]; c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c, nil
		}
	}
}

// check is all that can be known of a declaration without asking anybody.
func check(d Declaration, seen map[[2]string]int, number int) error {
	if d.Tenant == "" {
		return errors.New("tenant is missing: name it in the row or with --tenant")
	}
	if !events.ValidTenant(d.Tenant) {
		return errors.New("tenant must be 1 to 63 characters of a-z, 0-9 and -")
	}
	if err := d.Check(); err != nil {
		return err
	}
	if len(d.Identity) > 256 || strings.ContainsFunc(d.Identity, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errors.New("identity must be 1 to 256 printable ASCII characters")
	}
	e, err := events.New(events.Origin{Source: "/import", Tenant: d.Tenant, Time: time.Unix(0, 0)}, events.IdentityDeclared{Registration: d.Registration})
	if err == nil {
		err = events.Validate(e)
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "validate event: "))
	}
	if len(e.Data()) > maxRow {
		return tooLong(len(e.Data()))
	}
	key := [2]string{d.Tenant, d.Identity}
	if n, ok := seen[key]; ok {
		return fmt.Errorf("%s/%s stands in row %d already", d.Tenant, d.Identity, n)
	}
	seen[key] = number
	return nil
}

func tooLong(n int) error {
	return fmt.Errorf("the row has %d bytes, at most %d are possible", n, maxRow)
}

// shorten cuts what would make a report unreadable.
func shorten(s string) string {
	if len(s) > maxShow {
		return s[:maxShow] + "..."
	}
	return s
}
