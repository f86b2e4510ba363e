#!/usr/bin/env bash
# Installs this pack beside itself, without a network, and runs the checks: usage: ./run.sh [OPTIONS OF gpu_check]
# PYTHON names the Python that has torch, by default python3. Nothing outside of this folder is changed.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
if compgen -G "dali/part-*" >/dev/null && [ ! -e dali/wheels ]; then cat dali/part-* | tar -C dali -x; fi
if [ ! -e site/.complete ]; then
    rm -rf site
    wheels=(wheels/*.whl)
    if compgen -G "dali/wheels/*.whl" >/dev/null; then wheels+=(dali/wheels/*.whl); fi
    # Without dependencies: torch and the rest are there, and MLflow is left out, as nothing is tracked.
    "$python" -m pip install -q --disable-pip-version-check --no-index --find-links wheels --no-deps --no-compile \
        --target site "${wheels[@]}"
    touch site/.complete
fi
export PYTHONPATH=$PWD/site${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m tools.gpu_check "$@"
