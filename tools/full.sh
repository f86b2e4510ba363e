#!/usr/bin/env bash
# Runs all checks, which takes hours: every test, the full reliability table, an hour of fuzzing, the C++ on Arm under
# qemu, and the quick tests with the oldest allowed versions and with each installed Python. FUZZ_SECONDS=600 fuzzes for
# ten minutes only. If a step fails, the next ones still run.
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
