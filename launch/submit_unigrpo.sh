#!/usr/bin/env bash
# Runs UniGRPO on one node, on its GPUs or on its CPUs.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
bash launch/submit_unigrpo.sh CONFIG [--section.name VALUE ...]

Runs UniGRPO with CONFIG as a Ray job on this machine, and shows its output. It uses the job server that you have started
on this machine, or otherwise a local Ray head that is stopped at the end. Example:
  bash launch/submit_unigrpo.sh launch/configs/mmada_8b/unigrpo.yaml --run_dir runs/first --train.num_steps 100
The flags are those of the command: `unigrpo train --help`.
Relative paths in the config and in flags start at the folder of the project. A copy of its files that git lists is the
working directory of the job.
Environment: RAY_ADDRESS=http://HOST:8265 submits to that job server.
TEXT
}

# shellcheck source=launch/submit.sh
source launch/submit.sh
read_submission unigrpo "$@"
submit_here
