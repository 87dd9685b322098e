package service

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMainExitCodes(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("guard: {leese: 15s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := func(Env) (Service, error) { return Service{Name: "x"}, nil }
	for name, tc := range map[string]struct {
		args, env []string
		code      int
		says      string
	}{
		"help":             {args: []string{"-h"}, code: exitOK, says: "-config"},
		"unknown flag":     {args: []string{"-nope"}, code: exitUsage, says: "nope"},
		"bad file":         {args: []string{"-config", bad}, code: exitUsage, says: "leese"},
		"missing file":     {args: []string{"-config", "/none"}, code: exitUsage, says: "/none"},
		"bad variable":     {env: []string{"LANYARD_GUARD_LEASE=1s"}, code: exitUsage, says: "guard.lease"},
		"bad level":        {args: []string{"-log-level", "loud"}, code: exitUsage, says: "loud"},
		"no keys":          {args: []string{"-data", filepath.Join(t.TempDir(), "d")}, code: exitError, says: "keys"},
		"flags beat a var": {args: []string{"-data", filepath.Join(t.TempDir(), "flag")}, env: []string{"LANYARD_DATA=/var/none"}, code: exitError, says: "flag"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			code := mainWith(context.Background(), "x", build, tc.args, tc.env, out)
			b, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			if code != tc.code || !strings.Contains(string(b), tc.says) {
				t.Errorf("exit code %d, want %d; it says %q, want %q in it", code, tc.code, b, tc.says)
			}
		})
	}
}
