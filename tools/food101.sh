#!/usr/bin/env bash
# Downloads Food-101, converts it, fine-tunes two models with three seeds each, and writes the table: usage:
#   tools/food101.sh [OUT [SETTINGS OF train...]]        e.g. tools/food101.sh /data/food101 --batch-size 128
# Run it again after an interruption: what is done is skipped, and a run that was killed resumes at its checkpoint. The table
# is OUT/food101.md, and has what is done so far. It needs a GPU, a network, and 20 GB for OUT and $FASTTRAIN_CACHE.
# For a rehearsal: $FOOD101_SOURCE, a folder with images/ and meta/; $FOOD101_MODELS and $FOOD101_SEEDS, lists.
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
