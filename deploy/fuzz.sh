#!/bin/sh
# fuzz.sh TIME [PATTERN]: runs every fuzz target of both modules, or those whose name
# matches PATTERN, for TIME each.
set -eu
cd "$(dirname "$0")/.."
for mod in events services; do
	(cd "$mod" && grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r f; do
		dir=$(dirname "$f")
		for t in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$f" | grep -E "${2:-.}" || :); do
			echo "fuzz $mod/$dir $t"
			go test -run '^$' -fuzz "^$t\$" -fuzztime "$1" "$dir"
		done
	done)
done
