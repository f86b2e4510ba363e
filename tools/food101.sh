#!/usr/bin/env bash
# Downloads Food-101, converts it, fine-tunes two models with three seeds each, and writes a table of the results.
# Usage:
#   tools/food101.sh [OUT [OPTIONS OF train...]]        for instance tools/food101.sh /data/food101 --batch-size 128
# After an interruption run the same command again: finished runs are skipped, and a killed run resumes at its
# checkpoint. The table OUT/food101.md has all runs that have finished so far. The script needs a GPU, a network, and
# 20 GB for OUT and $FASTTRAIN_CACHE together.
# To rehearse it with other data, set $FOOD101_SOURCE to a folder with images/ and meta/, and $FOOD101_MODELS and
# $FOOD101_SEEDS to lists of models and seeds.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
out=${1:-food101}
shift || true
read -ra models <<<"${FOOD101_MODELS:-mobilenetv2_100 efficientnet_b0}"
read -ra seeds <<<"${FOOD101_SEEDS:-1 2 3}"
mkdir -p "$out"

{ nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || echo none; } | head -1 >"$out/gpu.txt"
"$python" -m fasttrain convert "${FOOD101_SOURCE:-food101}" --out "$out/shards"
for seed in "${seeds[@]}"; do
    for model in "${models[@]}"; do
        runs=$out/runs/$model/$seed
        if ! compgen -G "$runs/*/evaluation.json" >/dev/null; then
            "$python" -m fasttrain train "$out/shards" --out "$runs" --resume auto --model "$model" --seed "$seed" \
                --recipe accurate --amp --no-track "$@"
        fi
        "$python" "$root/tools/food101_table.py" "$out" >"$out/food101.md.new"
        mv "$out/food101.md.new" "$out/food101.md"
    done
done
cat "$out/food101.md"
