#!/usr/bin/env bash
# Makes a base image out of Debian's packages, for machines that reach no registry of images.
# Usage: infra/image/base.sh [NAME]; needs root, buildah and debootstrap. Does nothing if it is there.
set -eu
name=${1:-localhost/perennial-base:bookworm}
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || { echo "$tool is needed; on Debian: apt-get install buildah debootstrap" >&2; exit 1; }
done
if buildah inspect --type image "$name" >/dev/null 2>&1; then exit 0; fi

# Packages come from where this machine gets its own.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
[ -n "$mirror" ] || { echo "apt knows no mirror of Debian; run apt-get update" >&2; exit 1; }
root=$(mktemp -d "${TMPDIR:-/tmp}/perennial-base.XXXXXX")
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,ca-certificates bookworm "$root" "$mirror" >"$root.log" 2>&1 \
    || { tail -n 20 "$root.log" >&2; rm -f "$root.log"; exit 1; }
rm -rf "$root.log" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/usr/share/{doc,man,locale,info,lintian} "$root"/etc/apt/sources.list
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" / >/dev/null
buildah config --cmd /bin/sh "$container"
buildah commit --quiet --rm "$container" "$name" >/dev/null
