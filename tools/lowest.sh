#!/usr/bin/env bash
# Runs the quick tests with the oldest versions that pyproject.toml allows, in .venv-lowest.
# Usage: tools/lowest.sh [ARGUMENT...]
# Arguments go to pytest. Set PYTHON to a Python for which torch's oldest version has wheels, 3.10 to 3.12.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-lowest
[ -x $venv/bin/python ] || "${PYTHON:-python3}" -m venv $venv
install=()
while read -r word; do install+=("$word"); done < <(tools/installer.sh $venv)
[ "${install[1]}" = pip ] || { echo "lowest: uv is missing, and pip can't install it; install uv" >&2; exit 1; }
"${install[@]}" --quiet --resolution lowest-direct -e .
"${install[@]}" --quiet pytest pytest-xdist hypothesis ImageHash nbclient ipykernel optuna
OMP_NUM_THREADS=1 $venv/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" "$@"
