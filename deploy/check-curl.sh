#!/bin/sh
# check-curl.sh: README's walk with curl must do what README says. Runs it as it stands
# there, in an empty directory, against a Lanyard of its own.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
for tool in curl jq; do
	command -v "$tool" > /dev/null || { apt-get update -qq && apt-get install -y -qq "$tool" > /dev/null; }
done
dir=$(mktemp -d)
up=
# Lanyard is ended by the signal below, so the status that it ends with says nothing.
trap 'test -z "$up" || { kill "$up" 2>/dev/null; wait "$up" || true; }; rm -rf "$dir"' EXIT INT TERM
cd "$dir"
PATH="$root/bin:$PATH"
export PATH
unset LANYARD_DATA
lanyard up > up.log 2>&1 &
up=$!
tries=0
until lanyard doctor > doctor.log 2>&1; do
	tries=$((tries + 1))
	[ "$tries" -lt 100 ] || { echo "check-curl.sh: Lanyard did not start"; cat up.log doctor.log; exit 1; }
	kill -0 "$up" 2> /dev/null || { echo "check-curl.sh: Lanyard ended"; cat up.log; exit 1; }
	sleep 0.2
done
sed -n '/^<!-- curl -->$/,/^<!-- \/curl -->$/p' "$root/README.md" | grep -v -e '^<!--' -e '^```' > walk.sh
[ -s walk.sh ] || { echo "check-curl.sh: README.md has lost its curl block"; exit 1; }
sh -eu walk.sh > walk.out 2> walk.err || { echo "check-curl.sh: the walk failed"; cat walk.out walk.err; exit 1; }
for want in '"error":"invalid_scope"' '^refused$'; do
	grep -q "$want" walk.out || { echo "check-curl.sh: $want is missing"; cat walk.out walk.err; exit 1; }
done
grep -q 'revoked' walk.out walk.err || { echo "check-curl.sh: the last refusal names no revocation"; cat walk.out walk.err; exit 1; }
echo "README's walk with curl does what it says"
