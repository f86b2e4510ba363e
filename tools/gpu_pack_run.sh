#!/usr/bin/env bash
# Installs the packed packages into the folder `site` beside this script, without a network, and runs the GPU checks.
# Usage: ./run.sh [OPTIONS OF gpu_check]
# Set PYTHON to the Python that has torch (default: python3). Nothing outside of this folder is changed.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
if compgen -G "dali/part-*" >/dev/null && [ ! -e dali/wheels ]; then cat dali/part-* | tar -C dali -x; fi
wheels=(wheels/*.whl)
if compgen -G "dali/wheels/*.whl" >/dev/null; then wheels+=(dali/wheels/*.whl); fi
if [ "$(cat site/.installed 2>/dev/null)" != "${wheels[*]}" ]; then
    rm -rf site
    # Without dependencies: this machine has torch and the rest, and MLflow isn't needed, because nothing is tracked.
    "$python" -m pip install -q --disable-pip-version-check --no-index --find-links wheels --no-deps --target site "${wheels[@]}"
    echo "${wheels[*]}" >site/.installed
fi
export PYTHONPATH=$PWD/site${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m tools.gpu_check "$@"
