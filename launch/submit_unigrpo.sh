#!/usr/bin/env bash
# UniGRPO on one node: its GPUs, or this CPU.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
bash launch/submit_unigrpo.sh CONFIG [--section.name VALUE ...]

Runs UniGRPO with CONFIG as a Ray job on this machine, and shows its output: on the job server that you have started here,
else on a local Ray head that is stopped at the end. Example:
  bash launch/submit_unigrpo.sh launch/configs/mmada_8b/unigrpo.yaml --run_dir runs/first --train.num_steps 100
The flags are those of the command: `unigrpo train --help`.
Relative paths of config and flags are below this folder. A copy of what git lists in it travels to the cluster.
Environment: RAY_ADDRESS=http://HOST:8265 submits to that job server.
TEXT
}

# shellcheck source=launch/submit.sh
source launch/submit.sh
read_submission unigrpo "$@"
submit_here
