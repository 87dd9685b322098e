package policy

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed example
var example embed.FS

// Init writes a first set with its tests into dir and returns the files' paths. It
// overwrites nothing.
func Init(dir string) ([]string, error) {
	files := map[string]string{"default.cedar": defaultText}
	order := []string{"default.cedar"}
	err := fs.WalkDir(example, "example", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(example, path)
		name := strings.TrimPrefix(path, "example/")
		files[name], order = string(text), append(order, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read example: %w", err)
	}
	var written []string
	for _, name := range order {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return written, fmt.Errorf("make directory: %w", err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			return written, fmt.Errorf("write %s: it exists already; name a new directory", path)
		}
		if err != nil {
			return written, fmt.Errorf("write example: %w", err)
		}
		_, err = f.WriteString(files[name])
		if err := errors.Join(err, f.Close()); err != nil {
			return written, fmt.Errorf("write %s: %w", path, err)
		}
		written = append(written, path)
	}
	return written, nil
}
