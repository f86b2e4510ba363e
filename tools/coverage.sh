#!/usr/bin/env bash
# Measures which lines and branches of the Python code the tests run, in their own process and in those that they start.
# Prints a table, and writes pages to build/coverage. The reliability tests are left out, because they kill the
# processes that would count. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${FASTTRAIN_VENV:-.venv}/bin
mkdir -p build/coverage
export COVERAGE_FILE=$PWD/build/coverage/data COVERAGE_PROCESS_START=$PWD/pyproject.toml
rm -f build/coverage/data*
OMP_NUM_THREADS=1 "$bin/pytest" -n 2 --dist loadfile --ignore tests/reliability --cov --cov-branch --cov-report= "$@" || failed=$?
"$bin/coverage" combine --quiet --append || true
"$bin/coverage" html --quiet --directory build/coverage/html
"$bin/coverage" report
exit "${failed:-0}"
