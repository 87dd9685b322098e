package roster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	json "github.com/go-json-experiment/json"
)

// jsonLines reads one declaration a line, as strictly as the API does.
func jsonLines(r *bufio.Reader, tenant string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		row := Row{}
		for {
			text, size, err := line(r)
			if err != nil && !errors.Is(err, io.EOF) {
				yield(row, fmt.Errorf("read line %d: %w", row.Line+1, err))
				return
			}
			last := err != nil
			row.Line++
			if text = bytes.TrimSpace(text); size > 0 && (len(text) > 0 || size > maxRow) {
				row = Row{Number: row.Number + 1, Line: row.Line, Record: shorten(string(text)), Entry: Declaration{Tenant: tenant}}
				if size > maxRow {
					row.Err = tooLong(size)
				} else if err := json.Unmarshal(text, &row.Entry, json.RejectUnknownMembers(true)); err != nil {
					row.Err = fmt.Errorf("it is not one JSON object of the known members, each once: %w", err)
				}
				if !yield(row, nil) {
					return
				}
			}
			if last {
				return
			}
		}
	}
}

// line reads up to the next line feed and returns at most a little more than maxRow of
// it, and its full size.
func line(r *bufio.Reader) (text []byte, size int, err error) {
	for {
		part, err := r.ReadSlice('\n')
		size += len(part)
		if len(text) <= maxRow {
			text = append(text, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return text, size, err
		}
	}
}
