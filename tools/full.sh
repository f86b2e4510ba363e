#!/usr/bin/env bash
# Runs what takes hours: every test, the full reliability table, an hour of fuzzing, the C++ on Arm under qemu, and the quick
# tests with the oldest versions that are allowed and with each Python that is installed. FUZZ_SECONDS=600 fuzzes for less. A step
# that fails doesn't keep the next ones from running.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=()
step() { echo "full: $*" && "$@" || failed+=("$*"); }

step tools/test.sh -m ""
step tools/reliability.sh
step tools/fuzz.sh "${FUZZ_SECONDS:-3600}"
step tools/arm_check.sh
step tools/lowest.sh
for python in python3.10 python3.12 python3.13 python3.14; do
    if "$python" -c '' 2>/dev/null; then
        PYTHON=$python FASTTRAIN_VENV=.venv-$python step tools/test.sh -m "not slow"
    else
        echo "full: no $python here"
    fi
done
[ ${#failed[@]} -eq 0 ] || { printf 'full: failed: %s\n' "${failed[@]}"; exit 1; }
