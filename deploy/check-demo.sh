#!/bin/sh
# check-demo.sh FILE: the demo's JSON must state what the demo promises.
set -eu
for want in '"closed": true' '"tenants_whose_log_names_it": 3' '"receipts_verified": 5' '"subtree_allowed_after_closure": 0' '"siblings_denied": 0'; do
	grep -q "$want" "$1" || { echo "check-demo.sh: $want is missing"; cat "$1"; exit 1; }
done
number() { sed -n "s/^ *\"$1\": \([0-9.]*\),*\$/\1/p" "$2" | head -n 1; }
[ "$(number events_ingested "$1")" -ge 100 ] || { echo "check-demo.sh: fewer than 100 real events"; exit 1; }
[ "$(number descendants "$1")" -ge 40 ] || { echo "check-demo.sh: fewer than 40 descendants"; exit 1; }
echo "the demo holds what it promises"
