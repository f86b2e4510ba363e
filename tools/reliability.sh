#!/usr/bin/env bash
# Makes each fault of tests/reliability happen as often as docs/faults.md says, and writes that page's table (about an
# hour). Arguments go to pytest. If they choose some of the tests, only the rows of these tests are renewed.
set -euo pipefail
cd "$(dirname "$0")/.."
chosen=
for argument in "$@"; do [ ! -e "${argument%%::*}" ] || chosen=yes; done
[ -n "$chosen" ] || set -- tests/reliability "$@"
FASTTRAIN_RELIABILITY=full OMP_NUM_THREADS=1 "${FASTTRAIN_VENV:-.venv}/bin/pytest" -n "${JOBS:-2}" --dist load "$@"
