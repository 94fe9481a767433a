#!/usr/bin/env bash
# The quickstart with three seeds: is the held-out gain more than luck? Writes three_seeds.json and reward_curve.png.
# About half an hour on two idle CPU cores. Arguments go to every run.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=()
for seed in 1 2 3; do
    run="$PWD/runs/three_seeds/seed_$seed"
    rm -rf "$run"
    bash launch/quickstart.sh --train.seed "$seed" --run_dir "$run" "$@"
    runs+=("$run")
done
.venv/bin/python examples/tiny/three_seeds.py "${runs[@]}"
