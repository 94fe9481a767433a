#!/usr/bin/env bash
# A pretraining or Mix-CoT stage on one node: its GPUs, or this CPU.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
bash launch/submit_stage.sh pretrain|mixcot CONFIG [--section.name VALUE ...]

Runs a stage with CONFIG as a Ray job on this machine, and shows its output: on the job server that you have started
here, else on a local Ray head that is stopped at the end. Example:
  bash launch/submit_stage.sh mixcot launch/configs/mmada_8b/stage2_1.yaml --actor.num_nodes 1 --init_from runs/stage1_3
The flags are those of the command: `unigrpo pretrain --help` and `unigrpo mixcot --help`.
Relative paths of config and flags are below this folder. A copy of what git lists in it travels to the cluster.
Environment: RAY_ADDRESS=http://HOST:8265 submits to that job server.
TEXT
}

# shellcheck source=launch/submit.sh
source launch/submit.sh
read_submission "$@"
submit_here
