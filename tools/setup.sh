#!/usr/bin/env bash
# Makes .venv and installs fasttrain into it: usage: tools/setup.sh [dev]
# What a machine can't have (no root for Debian's packages, no wheel for an extra) is named and left out; the rest works.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=${FASTTRAIN_VENV:-.venv}
debian=(g++ pkg-config libjpeg62-turbo-dev libturbojpeg0-dev libopencv-dev)

# debian_packages WITHOUT PACKAGE...: installs what isn't there; WITHOUT says what is lacking where that can't be done.
debian_packages() {
    local without=$1 as_root=()
    shift
    if ! command -v apt-get >/dev/null || dpkg -s "$@" >/dev/null 2>&1; then return; fi
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    echo "setup: Debian's $*"
    { "${as_root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "$@"; } \
        >/dev/null 2>&1 || echo "setup: no Debian packages ($*): going on without $without"
}

debian_packages "the native module and FFCV" "${debian[@]}"
[ "${1:-}" != dev ] || debian_packages "the tests that open report.html in a browser" chromium

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install -qq --disable-pip-version-check)
echo "setup: fasttrain and what it stands on, into $venv; torch and MLflow take pip a few minutes"
if [ "${1:-}" = dev ]; then
    "${pip[@]}" -e '.[dev]'
else
    "${pip[@]}" .
fi
for extra in heif jxl dali ffcv; do
    echo "setup: the $extra extra"
    "${pip[@]}" -r <("$venv/bin/python" tools/extra.py "$extra") >/dev/null 2>&1 ||
        echo "setup: the $extra extra can't be installed here: going on without it"
done
