#!/usr/bin/env bash
# Builds a wheel for each given Python into dist/. Usage: tools/wheel.sh [PYTHON...]
# A wheel contains the native module and libjpeg-turbo. The wheel for Python 3.12 also works with all later ones.
set -euo pipefail
cd "$(dirname "$0")/.."
source=${SOURCE:-.}  # this folder, or an sdist
[ $# -gt 0 ] || set -- "${PYTHON:-python3}"
bin=$(tools/release_tools.sh)
export PATH=$bin:$PATH
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
mkdir -p dist
for python in "$@"; do
    echo "wheel: $("$python" --version)"
    uv build --quiet --wheel --python "$python" --out-dir "$raw" \
        -C cmake.define.FASTTRAIN_PORTABLE=ON -C "build-dir=build/portable-{wheel_tag}" "$source"
    auditwheel repair --wheel-dir dist "$raw"/*.whl >"$raw/log" 2>&1 || { cat "$raw/log"; exit 1; }
    rm "$raw"/*.whl
done
ls -sh dist/*.whl
