#!/usr/bin/env bash
# Makes .venv and installs fasttrain into it. Usage: tools/setup.sh [dev]
# With `dev` fasttrain is installed in place, with the development tools and every loader. Parts that can't be installed
# on this machine (Debian's packages without root, an extra without a wheel) are named and left out.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=${FASTTRAIN_VENV:-.venv}
dev=${1:-}
say() { echo "setup: $* (${SECONDS} s)"; }

# debian_packages WITHOUT PACKAGE...: installs the packages if one is missing. WITHOUT: what needs these packages.
debian_packages() {
    local without=$1 as_root=()
    shift
    if ! command -v apt-get >/dev/null || dpkg -s "$@" >/dev/null 2>&1; then return; fi
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    say "Debian's $*"
    { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } \
        >/dev/null 2>&1 || say "can't install Debian's $*: continuing without $without"
}

debian_packages "the native module" g++ libjpeg62-turbo-dev
if [ "$dev" = dev ]; then
    debian_packages "FFCV" pkg-config libturbojpeg0-dev libopencv-dev
    debian_packages "the tests that open report.html in a browser" chromium
fi

say "$("$python" --version), into $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

install=()
while read -r word; do install+=("$word"); done < <(tools/installer.sh "$venv")
uv=no
if [ "${install[1]}" = pip ]; then uv=yes; else say "uv can't be installed, so pip installs everything, which takes a few minutes"; fi

# An older environment has the distribution under its former name, fasttrain.
if compgen -G "$venv/lib/python*/site-packages/fasttrain-*.dist-info" >/dev/null; then "${pip[@]}" uninstall -qy fasttrain; fi

driver=no
if command -v nvidia-smi >/dev/null || [ -e /proc/driver/nvidia/version ]; then driver=yes; fi
has() { "$venv/bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
if [ $driver = no ] && [ $uv = yes ] && [ "$(uname -s)" = Linux ] && ! has torch; then
    say "torch for the CPU, as there is no NVIDIA driver"
    "${install[@]}" --torch-backend cpu torch torchvision 2>/dev/null ||
        say "PyTorch's index of CPU builds can't be reached, so torch comes with CUDA's libraries, 3 GB"
fi

say "fasttrain and its dependencies"
packages=(.)
if [ "$dev" = dev ]; then packages=(-e '.[dev]'); fi
"${install[@]}" "${packages[@]}" || {
    [ $uv = yes ] && say "uv can't install fasttrain; trying pip" && "${pip[@]}" install "${packages[@]}"
}

# reason LOG: the line that says why an installation failed.
reason() {
    { grep -E '[A-Z][A-Za-z]*Error: |fatal error: ' "$1" || grep -iE 'because|no matching' "$1" || grep -i error "$1"; } |
        tail -1 | sed -E 's/^ *(cause: )?//' | cut -c -160
}

extras=(heif jxl)
if [ "$dev" = dev ] || [ $driver = yes ]; then
    # DALI's wheels for CUDA 12 and 13 install the same files, so the one that doesn't fit torch is removed first.
    dali=$("$venv/bin/python" -c 'import torch; from fasttrain.extras import dali_extra; print(dali_extra(torch.version.cuda))')
    if [ "$dali" = dali ]; then other=nvidia-dali-cuda130; else other=nvidia-dali-cuda120; fi
    if "${pip[@]}" show -q "$other" 2>/dev/null; then "${pip[@]}" uninstall -qy nvidia-dali-cuda120 nvidia-dali-cuda130; fi
    extras+=("$dali")
fi
if [ "$dev" = dev ]; then extras+=(ffcv); fi
mkdir -p build
for extra in "${extras[@]}"; do
    say "the $extra extra"
    log=build/setup-$extra.log
    "$venv/bin/python" tools/extra.py "$extra" >"build/setup-$extra.txt"
    "${install[@]}" -r "build/setup-$extra.txt" >"$log" 2>&1 ||
        say "continuing without the $extra extra: $(reason "$log"); the log is $log"
done
say "done: $venv/bin/fasttrain"
