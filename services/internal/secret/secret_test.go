package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/yaml.v3"
)

const hidden = "hunter2-hidden"

func TestNothingPrintsASecret(t *testing.T) {
	s := New(hidden)
	type holder struct {
		Public Secret
		hidden Secret
		list   []Secret
		byName map[string]Secret
	}
	h := holder{s, s, []Secret{s}, map[string]Secret{"a": s}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", &h)
	}
	fmt.Fprintln(&out, fmt.Errorf("wrap: %w %v", errors.New("x"), h))
	js, err := json.Marshal(map[string]any{"s": s, "p": &s, "h": h})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(js)
	ys, err := yaml.Marshal(map[string]any{"s": s, "p": &s, "h": struct{ S Secret }{s}})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(ys)
	var log bytes.Buffer
	z := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&log), zap.DebugLevel))
	z.Info("m", zap.Any("a", s), zap.Any("b", &s), zap.Reflect("c", h), zap.Stringer("d", s), zap.Any("e", []Secret{s}))
	z.Sugar().Infow("m", "k", s, "h", h)
	out.Write(log.Bytes())
	for _, leak := range []string{hidden, fmt.Sprintf("%x", hidden), fmt.Sprintf("%X", hidden)} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed %q in:\n%s", leak, out.String())
		}
	}
	if n := strings.Count(out.String(), redacted); n < 20 {
		t.Errorf("REDACTED printed %d times, want at least 20:\n%s", n, out.String())
	}
	if s.Reveal() != hidden {
		t.Errorf("Reveal = %q", s.Reveal())
	}
	if (Secret{}).Reveal() != "" || !(Secret{}).Empty() || s.Empty() {
		t.Error("the zero value is not the empty secret")
	}
}

func TestRead(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		mode       os.FileMode
		want       string
		wantErr    string
	}{
		{"plain", "s3cret", 0o600, "s3cret", ""},
		{"line end", "s3cret\r\n", 0o400, "s3cret", ""},
		{"inner spaces stay", " a b \n", 0o600, " a b ", ""},
		{"group may read", "s3cret", 0o640, "", "chmod 600"},
		{"all may read", "s3cret", 0o604, "", "chmod 600"},
		{"empty", "\n", 0o600, "", "empty"},
		{"large", strings.Repeat("x", maxFile+1), 0o600, "", "larger"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "s")
			if err := os.WriteFile(p, []byte(tc.text), tc.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(p, tc.mode); err != nil {
				t.Fatal(err)
			}
			got, err := Read(p)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error %v, want one with %q", err, tc.wantErr)
				}
				if strings.Contains(err.Error(), "s3cret") {
					t.Fatalf("the error shows the secret: %v", err)
				}
				return
			}
			if err != nil || got.Reveal() != tc.want {
				t.Fatalf("Read = %q, %v", got.Reveal(), err)
			}
		})
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
