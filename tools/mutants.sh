#!/usr/bin/env bash
# Mutation testing of the plan and the checkpoints, as [tool.mutmut] in pyproject.toml says: each small change to the code must fail
# a test. Works in a copy, build/mutants, and prints the survivors' changes:
# tools/mutants.md says which of them are expected. Arguments name mutants: tools/mutants.sh 'fasttrain.loaders.*'
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${FASTTRAIN_VENV:-.venv}/bin/python")
copy=${FASTTRAIN_MUTANTS:-build/mutants}
mkdir -p "$copy"
rm -rf "$copy/fasttrain" "$copy/tests" "$copy/mutants/tests"  # what was proved of unchanged functions is kept in mutants/
tar -c --exclude=__pycache__ fasttrain tests tools pyproject.toml | tar -x -C "$copy"
cp "$("$python" -c 'import fasttrain._native as native; print(native.__file__)')" "$copy/fasttrain/"
cd "$copy"
# An editable installation is found before anything on the path: it would test the originals.
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
