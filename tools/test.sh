#!/usr/bin/env bash
# Installs fasttrain with its development tools into .venv, lints, checks types and imports, builds the documentation, runs the
# tests but those that are marked `full`.
# Arguments go to pytest: tools/test.sh -k plan
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh dev
bin=${FASTTRAIN_VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports"
NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict
# One thread a process: two processes of two threads each would only get in each other's way on two cores.
OMP_NUM_THREADS=1 "$bin/pytest" -n 2 --dist loadfile --durations=20 -m "not full" "$@"
