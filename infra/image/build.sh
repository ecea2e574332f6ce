#!/usr/bin/env bash
# Builds the prediction service's image.
#
# Usage: infra/image/build.sh [--tag NAME] [--base IMAGE] [--model FOLDER [--version NUMBER]] [--fresh yes]
#   --model    a model version's folder (contract.json, model.skops, ...) to bake in; without it, the model is
#              pulled from the registry by its alias: set PERENNIAL_MLFLOW_SERVER where the image runs
#   --version  the number that the folder has in the registry; without it, it is named after its content
#   --base     any image with Python 3.11 on glibc 2.28 or newer; infra/image/base.sh makes one of Debian
#   --fresh    take no layer from an earlier build
# ENGINE=docker|podman|buildah chooses the builder; the first of them that is there is taken otherwise.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
tag=localhost/perennial-service:latest base="" model="" version="" fresh=""
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; }
while [ $# -gt 0 ]; do
    [ "$1" != --help ] && [ "$1" != -h ] || { usage; exit 0; }
    [ $# -gt 1 ] || { echo "$1 needs a value" >&2; usage >&2; exit 2; }
    case "$1" in
        --tag) tag=$2 ;;
        --base) base=$2 ;;
        --model) model=$2 ;;
        --version) version=$2 ;;
        --fresh) fresh=$2 ;;
        *) echo "no option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift 2
done
engine=${ENGINE:-}
for one in docker podman buildah; do
    # Docker's client is often there without an engine to talk to.
    [ -n "$engine" ] || ! "$one" info >/dev/null 2>&1 || engine=$one
done
[ -n "$engine" ] || { echo "docker, podman or buildah is needed; on Debian: apt-get install buildah" >&2; exit 1; }
[ -z "$model" ] || [ -f "$model/contract.json" ] || { echo "$model is not the folder of a model version" >&2; exit 1; }

# The Python that fetches only has to have pip; what it fetches is for the image's.
python=${PYTHON:-$project/.venv/bin/python}
[ -x "$python" ] || python=python3
context=$(mktemp -d "${TMPDIR:-/tmp}/perennial-image.XXXXXX")
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/build" "$context/app" "$context/model"
platforms=()
for tag_of in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014 \
    manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
    platforms+=(--platform "${tag_of}_x86_64")
done
locks=("$project/requirements-service.lock" "$here/tools.lock")
# Fetched once for each state of the locks; whole or not at all.
wheels=$project/var/wheels/$(cat "${locks[@]}" | sha256sum | cut -c 1-16)
if [ ! -d "$wheels" ]; then
    for lock in "${locks[@]}"; do
        "$python" -m pip download --quiet --no-input --disable-pip-version-check --require-hashes --no-deps \
            --only-binary :all: "${platforms[@]}" --python-version 3.11 --implementation cp \
            --dest "$context/wheels" --requirement "$lock"
    done
    mkdir -p "$project/var/wheels"
    cp -r "$context/wheels" "$wheels.$$"
    rm -rf "$context/wheels"
    mv -T "$wheels.$$" "$wheels" 2>/dev/null || rm -rf "$wheels.$$"
fi
cp "${locks[@]}" "$context/build/"
cp -r "$wheels" "$context/build/wheels"
cp "$here/sbom.py" "$context/build/"
tar -C "$project" --exclude __pycache__ -c feature_repo services | tar -C "$context/app" -x
[ -z "$model" ] || cp -r "$model/." "$context/model/"
chmod -R a+rX "$context"

arguments=(--file "$project/infra/Containerfile" --tag "$tag" --build-arg "MODEL_VERSION=$version")
arguments+=(--build-arg "REVISION=$(git -C "$project" rev-parse HEAD 2>/dev/null || true)")
[ -z "$base" ] || arguments+=(--build-arg "BASE=$base")
cache=--layers
[ -z "$fresh" ] || cache=--no-cache
case "$engine" in
    buildah) buildah bud --quiet "$cache" "${arguments[@]}" "$context" ;;
    *) "$engine" build --quiet ${fresh:+"$cache"} "${arguments[@]}" "$context" ;;
esac
echo "built $tag"
