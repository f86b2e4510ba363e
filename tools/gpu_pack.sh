#!/usr/bin/env bash
# Packs what `python -m tools.gpu_check` needs on a GPU machine without a network, into build/gpu_pack, at most 64 MiB:
# usage: tools/gpu_pack.sh [--photographs FOLDER] [--dali]
# That machine has Python 3.12 or newer, torch, torchvision, timm, numpy, scipy, matplotlib and pillow; there,
# build/gpu_pack/run.sh installs the rest beside itself and runs the checks. --photographs: a folder of class folders, of which
# a few hundred photographs go along; without it the checks draw some. --dali: also build/gpu_pack_dali, DALI for CUDA 13 in
# parts of 60 MB; laid into the pack as the folder dali, they are joined and installed there.
set -euo pipefail
cd "$(dirname "$0")/.."
photographs='' dali=no
while [ $# -gt 0 ]; do
    case $1 in
    --photographs) photographs=$(realpath "$2") && shift 2 ;;
    --dali) dali=yes && shift ;;
    *) echo "usage: tools/gpu_pack.sh [--photographs FOLDER] [--dali]" >&2 && exit 2 ;;
    esac
done
most=$((64 << 20))
python=${PYTHON:-python3.12}
pack=build/gpu_pack
fetch=(build/release/bin/python -m pip download -qq --disable-pip-version-check --only-binary :all: --python-version 3.12)
for tag in manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014; do
    fetch+=(--platform "${tag}_$(uname -m)")
done

rm -rf "$pack"
mkdir -p "$pack/wheels" "$pack/tools"
tools/wheel.sh "$python"
# An array, since a pipe to `head` would end `ls` by a signal.
wheels=(dist/fasttrain_vision-*-cp312-abi3-*.whl)
wheel=$(printf '%s\n' "${wheels[@]}" | sort -V | tail -1)
cp "$wheel" "$pack/wheels/"
# Packages that the wheel needs and the machine lacks: torch and timm have brought fsspec, jinja2 and safetensors along. MLflow, which
# would be most of the pack, is left out: the checks track nothing.
there='torch|torchvision|timm|numpy|scipy|matplotlib|pillow|fsspec|jinja2|safetensors'
mapfile -t needs < <("$python" -c 'import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name = next(each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
print(wheel.read(name).decode())' "$wheel" | sed -n 's/^Requires-Dist: //p' | grep -vE "extra ==|^($there|mlflow)\\b")
"${fetch[@]}" -d "$pack/wheels" "${needs[@]}"
cp -r tools/gpu_check "$pack/tools/"
find "$pack" -name __pycache__ -exec rm -r {} +
cp tools/gpu_pack_run.sh "$pack/run.sh"
if [ -n "$photographs" ]; then
    "$python" tools/some_photographs.py "$photographs" "$pack/photographs" 400
fi

if [ $dali = yes ]; then
    rm -rf build/gpu_pack_dali
    mkdir -p build/gpu_pack_dali/wheels
    "${fetch[@]}" -d build/gpu_pack_dali/wheels "nvidia-dali-cuda130>=1.50"
    rm -f build/gpu_pack_dali/wheels/numpy-*.whl # the machine has it, and torch there was built for its own
    tar -C build/gpu_pack_dali -c wheels | split -b 60000000 -d - build/gpu_pack_dali/part-
    rm -r build/gpu_pack_dali/wheels
    du -sh build/gpu_pack_dali
fi

bytes=$(du -sb "$pack" | cut -f 1)
echo "pack: $pack, $((bytes >> 20)) MiB"
if [ "$bytes" -gt $most ]; then
    echo "pack: $bytes bytes are more than the $most that it may have; give fewer or smaller photographs" >&2
    exit 1
fi
