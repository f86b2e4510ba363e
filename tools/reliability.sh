#!/usr/bin/env bash
# Makes every fault of tests/reliability happen as often as docs/faults.md says, and writes its table (about an hour).
# Arguments go to pytest; a run of some tests renews their rows and keeps the others'.
set -euo pipefail
cd "$(dirname "$0")/.."
chosen=
for argument in "$@"; do [ ! -e "${argument%%::*}" ] || chosen=yes; done
[ -n "$chosen" ] || set -- tests/reliability "$@"
FASTTRAIN_RELIABILITY=full OMP_NUM_THREADS=1 "${FASTTRAIN_VENV:-.venv}/bin/pytest" -n "${JOBS:-2}" --dist load "$@"
