#!/usr/bin/env bash
# Builds the sdist and, for each PYTHON, a wheel from it into dist/, checks and tests these. With --tag tags the commit.
# Usage: tools/release.sh [--tag] [PYTHON...]
# Without --tag it changes nothing in git. It uploads nothing. SITE_PACKAGES is passed to tools/wheel_test.sh for the
# wheels of the same Python version.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=no
if [ "${1:-}" = --tag ]; then tag=yes && shift; fi
[ $# -gt 0 ] || set -- python3.10 python3.11 python3.12
pythons=()
for python in "$@"; do
    if "$python" -c '' 2>/dev/null; then pythons+=("$python"); else echo "release: no wheel for $python, which isn't installed here"; fi
done
version=$(sed -nE 's/^__version__ = "(.+)"$/\1/p' fasttrain/version.py)

problems=()
[ -z "$(git status --porcelain)" ] || problems+=("the work tree has uncommitted changes: commit them")
! git rev-parse -q --verify "refs/tags/v$version" >/dev/null || problems+=("the tag v$version exists: raise fasttrain/version.py")
grep -q "^version: $version$" CITATION.cff || problems+=("CITATION.cff names another version than $version")
grep -q "^## $version " CHANGELOG.md || problems+=("CHANGELOG.md has no heading '## $version (DATE)'")
[ ${#problems[@]} -eq 0 ] || printf 'release: %s\n' "${problems[@]}"
[ $tag = no ] || [ ${#problems[@]} -eq 0 ] || exit 1

bin=$(tools/release_tools.sh)
rm -rf dist
"$bin/uv" build --quiet --sdist --out-dir dist .
SOURCE=$(echo dist/*.tar.gz) tools/wheel.sh "${pythons[@]}"
"$bin/twine" check --strict dist/*.tar.gz dist/*.whl
for file in dist/*.tar.gz dist/*.whl; do
    [[ $(basename "$file") == fasttrain_vision-"$version"[-.]* ]] || { echo "release: $file is not of version $version" >&2; exit 1; }
done
for python in "${pythons[@]}"; do
    short=$("$python" -c 'import sys; print(f"cp3{min(sys.version_info[1], 12)}")')
    site=${SITE_PACKAGES:-}
    [[ $site == *"/python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')/"* ]] || site=
    tools/wheel_test.sh dist/*-"$short"-*.whl "$python" $site
done
if [ $tag = yes ]; then
    git tag -a "v$version" -m "fasttrain $version" && echo "release: tagged v$version; dist/ is ready to upload"
else
    echo "release: the commit is not tagged; tools/release.sh --tag tags it as v$version"
fi
