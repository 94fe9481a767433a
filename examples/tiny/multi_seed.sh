#!/usr/bin/env bash
# Runs the quickstart with three seeds, to measure how much the held-out gain varies.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'TEXT'
bash examples/tiny/multi_seed.sh [--section.name VALUE ...]

Runs the quickstart with the seeds 1, 2 and 3 in runs/multi_seed, which it removes first, and writes multi_seed.json and
the figures reward_curve.png and before_after.png to the folder of this script. This takes about 16 minutes on two CPU
cores. Arguments are passed to every run.
TEXT
    exit 0
fi

runs=()
for seed in 1 2 3; do
    run="$PWD/runs/multi_seed/seed_$seed"
    rm -rf "$run"
    bash launch/quickstart.sh --train.seed "$seed" --run_dir "$run" "$@"
    runs+=("$run")
done
.venv/bin/python examples/tiny/multi_seed.py "${runs[@]}"
.venv/bin/python examples/tiny/before_after.py "${runs[0]}"
