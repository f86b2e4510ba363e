#!/usr/bin/env bash
# Tests the tests of the plan and the checkpoints by mutation, as [tool.mutmut] in pyproject.toml says: each small
# change to the code (a mutant) must make a test fail. Works in a copy, build/mutants, and prints the changes that no
# test noticed. tools/mutants.md says which of these are expected. Arguments choose mutants:
# tools/mutants.sh 'fasttrain.loaders.*'
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${FASTTRAIN_VENV:-.venv}/bin/python")
copy=${FASTTRAIN_MUTANTS:-build/mutants}
mkdir -p "$copy"
rm -rf "$copy/fasttrain" "$copy/tests" "$copy/mutants/tests"  # keep mutants/, which has the results for unchanged functions
tar -c --exclude=__pycache__ fasttrain tests tools pyproject.toml | tar -x -C "$copy"
cp "$("$python" -c 'import fasttrain._native as native; print(native.__file__)')" "$copy/fasttrain/"
cd "$copy"
# Python finds an editable installation before anything on the path, so remove its finder: it would find the originals.
mutmut() {
  OMP_NUM_THREADS=1 "$python" -c '
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "ScikitBuild" not in type(each).__name__]
from mutmut.__main__ import cli
cli()' "$@"
}
mutmut run --max-children "${FASTTRAIN_MUTANT_JOBS:-2}" "$@" || failed=$?
mutmut results | while read -r name state; do
  case $state in survived | timeout | suspicious | "no tests") echo "$name $state"; mutmut show "${name%:}" ;; esac
done
exit "${failed:-0}"
