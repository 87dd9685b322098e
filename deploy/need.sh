#!/bin/sh
# need.sh PACKAGE...: installs Debian packages that a test needs, or says plainly why not.
set -eu
for p in "$@"; do
	command -v "$p" >/dev/null 2>&1 && continue
	# Debian keeps PostgreSQL's programs out of PATH
	[ "$p" = postgresql ] && { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1 && continue
	if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
		echo "need.sh: $p is missing; install it (Debian: apt-get install $p) and run again" >&2
		exit 1
	fi
	echo "need.sh: installing $p"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$p" >/dev/null 2>&1 ||
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$p" >/dev/null; } ||
		{ echo "need.sh: $p could not be installed" >&2; exit 1; }
	# the package starts its own server on Debian; the tests start theirs
	if [ "$p" = redis-server ] && command -v service >/dev/null 2>&1; then service redis-server stop >/dev/null 2>&1 || :; fi
done
