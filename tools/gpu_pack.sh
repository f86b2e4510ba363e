#!/usr/bin/env bash
# Writes build/gpu_pack, at most 64 MiB: what `python -m tools.gpu_check` needs on a GPU machine without a network.
# Usage: tools/gpu_pack.sh [--photographs FOLDER] [--dali]
# The GPU machine needs Python 3.12 or newer, torch, torchvision, timm, numpy, scipy, matplotlib and pillow. Copy
# build/gpu_pack there and start its run.sh, which installs the rest beside itself and runs the checks.
# --photographs: a folder of class folders, of which 400 photographs are packed; without it the checks draw pictures.
# --dali: writes build/gpu_pack_dali as well, DALI for CUDA 13 in parts of 60 MB. Copy the parts into the pack's folder
# dali; run.sh joins and installs them.
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
# The newest wheel. An array instead of `ls | head`, because `head` would end `ls` by a signal.
wheels=(dist/fasttrain_vision-*-cp312-abi3-*.whl)
wheel=$(printf '%s\n' "${wheels[@]}" | sort -V | tail -1)
cp "$wheel" "$pack/wheels/"
# Pack the packages that the wheel needs, except those on the GPU machine (with torch and timm come fsspec, jinja2 and
# safetensors) and MLflow, which would be most of the pack: the checks track nothing.
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
    rm -f build/gpu_pack_dali/wheels/numpy-*.whl # the GPU machine has numpy, and its torch was built for that version
    tar -C build/gpu_pack_dali -c wheels | split -b 60000000 -d - build/gpu_pack_dali/part-
    rm -r build/gpu_pack_dali/wheels
    du -sh build/gpu_pack_dali
fi

bytes=$(du -sb "$pack" | cut -f 1)
echo "gpu_pack: $pack, $((bytes >> 20)) MiB"
if [ "$bytes" -gt $most ]; then
    echo "gpu_pack: $pack has $bytes bytes, but may have only $most; give smaller --photographs" >&2
    exit 1
fi
