#!/usr/bin/env bash
# Prints the command that installs packages into an environment, one word per line. Usage: tools/installer.sh VENV
# It is uv's command if uv is installed or pip can install it, because uv is many times faster; otherwise pip's. uv
# doesn't read pip's settings, so these become its options. Like pip, it takes the best version of all indexes.
set -euo pipefail
pip=("$1/bin/python" -m pip --disable-pip-version-check)
uv=$(command -v uv || true)
if [ -z "$uv" ] && "${pip[@]}" install -q uv >/dev/null 2>&1; then uv=$1/bin/uv; fi
if [ -z "$uv" ]; then
    printf '%s\n' "${pip[@]}" install
    exit
fi
printf '%s\n' "$uv" pip install --python "$1/bin/python" --index-strategy unsafe-best-match
"${pip[@]}" config list |
    sed -nE "s/\\\\n/ /g; s/^[^=]*\.(index-url|extra-index-url|find-links|constraint)='(.*)'$/\1 \2/p" | awk '!seen[$1]++' |
    while read -r name values; do
        for value in $values; do printf '%s\n' "--$name" "$value"; done
    done
