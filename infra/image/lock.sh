#!/usr/bin/env bash
# Writes requirements-service.lock and infra/image/tools.lock: versions of requirements.lock where it has one.
set -eu
cd "$(dirname "$0")/../.."
uv=.venv/bin/uv
[ -x "$uv" ] || uv=uv
options=(--quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate
    --no-emit-index-url --no-emit-find-links --no-header)
"$uv" pip compile infra/image/requirements.in --constraints requirements.lock "${options[@]}" -o requirements-service.lock
"$uv" pip compile infra/image/tools.in --constraints requirements.lock "${options[@]}" -o infra/image/tools.lock
