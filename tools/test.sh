#!/usr/bin/env bash
# Installs fasttrain with its development tools into .venv, lints, checks types and imports, builds the documentation,
# and runs all tests that aren't marked `full`. Arguments go to pytest: tools/test.sh -k plan
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh dev
bin=${FASTTRAIN_VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports"
NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict
# Two processes with one thread each: on two cores more threads would only slow each other down.
OMP_NUM_THREADS=1 "$bin/pytest" -n 2 --dist loadfile --durations=20 -m "not full" "$@"
