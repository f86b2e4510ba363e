#!/usr/bin/env bash
# Installs a wheel into a new virtual environment, and converts, trains and predicts there with the native loader.
# Usage: tools/wheel_test.sh WHEEL PYTHON [SITE_PACKAGES]
# No compiler is on the path, and the test fails if the system's libjpeg is loaded. SITE_PACKAGES: the folder of another
# environment of the same Python, from which torch and the other packages are taken instead of being downloaded.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: tools/wheel_test.sh WHEEL PYTHON [SITE_PACKAGES]" >&2; exit 2; }
wheel=$(realpath "$1") site=${3:+$(realpath "$3")}
python=$(command -v "$2")
[[ $python != */* || $python == /* ]] || python=$PWD/$python
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

"$python" -m venv bare
pip=(bare/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: --find-links "$(dirname "$wheel")")
if [ -n "$site" ]; then
    "${pip[@]}" --no-index --no-deps "$wheel"
    echo "$site" >"$(bare/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/other.pth"
else
    "${pip[@]}" "$wheel"
fi

bare() { env -i HOME="$scratch" PATH="$scratch/bare/bin" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" "$@"; }
bare python - <<'END'
import shutil
import sys
from importlib.metadata import files
from pathlib import Path

import fasttrain
from fasttrain import _native, decode
from fasttrain.photos.sample import draw_sample

prefix = Path(sys.prefix).resolve()
assert Path(fasttrain.__file__).resolve().is_relative_to(prefix), f"{fasttrain.__file__} is not the wheel's"
assert Path(_native.__file__).resolve().is_relative_to(prefix), f"{_native.__file__} is not the wheel's"
found = [name for name in ("cc", "gcc", "g++", "c++", "clang", "cmake", "ninja") if shutil.which(name)]
assert not found, f"not bare: {found}"
licenses = {file.name for file in files("fasttrain-vision") if "licenses" in file.parts}
assert licenses == {"LICENSE", "libjpeg-turbo.txt", "nanobind.txt", "robin-map.txt"}, licenses

draw_sample(Path("photographs"), per_class=8)
photograph = next(Path("photographs").rglob("*.jpg")).read_bytes()
pixels = decode(photograph)
best = _native.set_simd("plain")
assert decode(photograph).equal(pixels), f"{best} decodes other pixels than plain"
_native.set_simd(best)
assert (best == "plain") == ("avx2" not in Path("/proc/cpuinfo").read_text()), f"{best} is not the best of this processor"
loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libjpeg" in line}
bundled = [each for each in loaded if each.startswith(str(prefix)) and "fasttrain_vision.libs" in each]
assert len(bundled) == 1, f"the module does not use the wheel's libjpeg: {loaded}"
assert all("site-packages" in each for each in loaded), f"the system's libjpeg is loaded: {loaded}"
print("wheel_test: the module uses", Path(bundled[0]).name, "and", best)
END
bare fasttrain convert photographs --out shards
bare fasttrain train shards --loader native --no-pretrained --image-size 64 --batch-size 8 --epochs 1 --limit-batches 2
bare fasttrain predict --checkpoint "$(echo runs/*/)" "$(find photographs -name '*.jpg' | head -1)"
echo "wheel_test: $(basename "$wheel") works with $("$python" --version)"
