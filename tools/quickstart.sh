#!/usr/bin/env bash
# Installs fasttrain into .venv, draws the sample data set, trains on it, and evaluates the run.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh
fasttrain=${FASTTRAIN_VENV:-.venv}/bin/fasttrain
"$fasttrain" convert sample --out shards/sample
"$fasttrain" train --config tools/sample.toml
newest=$(ls -td runs/*/ | head -1)
"$fasttrain" evaluate --checkpoint "$newest" --data shards/sample
