// Package secret holds values that must not be printed. Everything of Lanyard that
// handles a password, a seed or a private key as text may import it.
package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// redacted is what every printed secret looks like.
const redacted = "REDACTED"

// maxFile is the largest secret file, in bytes.
const maxFile = 64 << 10

// ErrExposed means that others than the owner may read a secret's file.
var ErrExposed = errors.New("others may read this file")

// Secret is a text that prints as REDACTED through fmt (with every verb, also as a
// field of something printed), JSON, YAML, text encoders and zap. It is behind a
// pointer so that not even reflection over an unexported field shows it. The zero
// value is an empty secret.
type Secret struct{ text *string }

// New makes a secret of text.
func New(text string) Secret { return Secret{&text} }

// Reveal is the text. Call it where the text is used, and nowhere else.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty reports whether there is no text.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements encoding.TextMarshaler; JSON and zap use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalYAML implements yaml.Marshaler.
func (s Secret) MarshalYAML() (any, error) { return redacted, nil }

// Read is the text of the file at path without trailing line ends. It refuses an
// empty file, one over 64 KiB, and one that others than its owner may read.
func Read(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Secret{}, fmt.Errorf("read secret %s: %w (mode %04o): run chmod 600 on it", path, ErrExposed, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	if len(b) > maxFile {
		return Secret{}, fmt.Errorf("read secret %s: larger than %d bytes", path, maxFile)
	}
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" {
		return Secret{}, fmt.Errorf("read secret %s: the file is empty", path)
	}
	return New(text), nil
}
