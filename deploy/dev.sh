#!/bin/sh
# Runs every service as its own process on loopback, with a real nats-server and a
# real redis-server, until Ctrl-C. dev.sh [DIR]: where the deployment lives.
set -eu
cd "$(dirname "$0")/.."
deploy/need.sh redis-server
dir=${1:-lanyard-deployment}
[ -x bin/nats-server ] || (cd services && go build -o ../bin/nats-server github.com/nats-io/nats-server/v2)
bin/lanyard init --out "$dir" --layout local --local-oidc
pids=
stop() {
	trap - INT TERM EXIT
	for p in $pids; do kill "$p" 2>/dev/null || :; done
	for p in $pids; do wait "$p" 2>/dev/null || :; done
}
trap stop INT TERM EXIT
start() {
	name=$1
	shift
	"$@" >"$dir/$name.log" 2>&1 &
	pids="$! $pids" # services stop before the servers
	echo "$name: pid $!, log $dir/$name.log"
}
start nats bin/nats-server -c "$dir/nats/nats.conf"
start redis redis-server "$dir/redis/redis.conf"
bin/lanyard provision --config "$dir/provision/lanyard.yaml"
start local-issuer bin/lanyard local-issuer --data "$dir/operator" --listen 127.0.0.1:9087
for s in issuance revocation intake anomaly rotation guard; do
	start "$s" "bin/$s" --config "$dir/$s/lanyard.yaml"
done
echo
echo "try: bin/lanyard --data $dir/operator doctor"
echo "     bin/lanyard --data $dir/operator demo --attach"
echo "Ctrl-C stops everything"
wait
