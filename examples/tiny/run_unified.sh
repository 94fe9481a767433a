#!/usr/bin/env bash
# Runs UniGRPO on all four tasks of the tiny world until the reward curves are flat.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'TEXT'
bash examples/tiny/run_unified.sh [--section.name VALUE ...]

Runs the quickstart on all four tasks, including thinking before text to image, for 240 steps at half its learning rate.
This takes half an hour on two CPU cores. Each prompt is used three or four times. Arguments are passed to the training
command.
TEXT
    exit 0
fi

bash launch/quickstart.sh --data.tasks '[text, mmu, t2i, r2i]' --train.num_steps 240 --actor.adam.lr 1.2e-4 \
    --eval.steps 24 --ckpt.save_steps 48 "$@"
