#!/usr/bin/env bash
# Installs the project and trains a tiny model with UniGRPO on three tasks, as a Ray job.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'TEXT'
bash launch/quickstart.sh [--section.name VALUE ...]

Creates or reuses .venv, starts a local Ray head with a job server if none is reachable (and stops it at the end), and
submits the training job of launch/configs/tiny/unigrpo.yaml. It ends with a table of metrics before and after training,
a reward curve and a report. After the installation it takes four to six minutes on two CPU cores.
On a local head without a GPU, the policy has two processes.
Arguments are passed on to the training command, for example
  bash launch/quickstart.sh --train.num_steps 20 --train.seed 7
Environment: RAY_ADDRESS=http://HOST:8265 submits to that job server instead.
TEXT
    exit 0
fi

# shellcheck source=launch/install.sh
source launch/install.sh
# shellcheck source=launch/ray_head.sh
source launch/ray_head.sh

check_settings train --config launch/configs/tiny/unigrpo.yaml "$@"
start_or_find_ray
if [ -n "${ray_pid:-}" ] && ! has_gpu; then
    set -- --actor.num_gpus_per_node 2 "$@" # on a head of its own: two processes keep two CPU cores busier than one does
fi
run_dir=$(last_run_dir "$PWD/runs/quickstart-$(date +%Y%m%d-%H%M%S)" "$@")
say "submitting the job to $RAY_ADDRESS; it writes to $run_dir"
submit_job train --config launch/configs/tiny/unigrpo.yaml "$@" --run_dir "$run_dir"
"$PYTHON" examples/tiny/closing_sentence.py "$run_dir"
