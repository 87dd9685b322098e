package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile is the most that one file of a directory may hold, in bytes.
const maxFile = MaxText

// LoadDir reads the files of a set: every *.cedar file in dir itself.
func LoadDir(dir string) ([]File, error) {
	var files []File
	err := each(dir, func(name string) bool { return strings.HasSuffix(name, ".cedar") }, func(name string, text []byte) error {
		files = append(files, File{Name: name, Text: string(text)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read policies: %s holds no *.cedar file; 'lanyard policy init %s' writes a first one", dir, dir)
	}
	return files, nil
}

// LoadCases reads the tests of a set: every tests/*.yaml and *_test.yaml of dir.
func LoadCases(dir string) ([]Case, error) {
	var cases []Case
	for _, from := range []struct{ dir, suffix string }{{"", "_test.yaml"}, {"tests", ".yaml"}} {
		err := each(filepath.Join(dir, from.dir), func(name string) bool { return strings.HasSuffix(name, from.suffix) }, func(name string, text []byte) error {
			list, err := ParseCases(filepath.ToSlash(filepath.Join(from.dir, name)), text)
			cases = append(cases, list...)
			return err
		})
		if os.IsNotExist(err) && from.dir != "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read tests of policies: %w", err)
		}
	}
	return cases, nil
}

// each calls f for every file in dir whose name is wanted, in order of name.
func each(dir string, wanted func(string) bool, f func(name string, text []byte) error) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range list {
		if e.IsDir() || !wanted(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err != nil {
			return err
		} else if info.Size() > maxFile {
			return fmt.Errorf("%s is larger than %d bytes", path, maxFile)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := f(e.Name(), text); err != nil {
			return err
		}
	}
	return nil
}
