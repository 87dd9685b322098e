#!/bin/sh
# Builds the static binaries and the image context in dist/image, and the image
# itself where a container engine runs.
set -eu
cd "$(dirname "$0")/.."
out=dist/image
rm -rf "$out" && mkdir -p "$out/bin" "$out/etc/ssl/certs"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/bin/" ./services/cmd/...
for b in "$out"/bin/*; do
	if command -v file >/dev/null 2>&1 && ! file "$b" | grep -q 'statically linked'; then
		echo "images.sh: $b is not static" >&2
		exit 1
	fi
done
for c in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
	[ -f "$c" ] && cp "$c" "$out/etc/ssl/certs/ca-certificates.crt" && break
done
printf 'nonroot:x:65532:65532:nonroot:/:/bin/false\n' > "$out/etc/passwd"
cp deploy/Dockerfile "$out/Dockerfile"
echo "image context: $out ($(du -sh "$out" | cut -f1))"
if docker info >/dev/null 2>&1; then
	docker build -t lanyard:dev "$out"
else
	echo "images.sh: no container engine runs here; the context is ready for 'docker build -t lanyard:dev $out'"
fi
