#!/usr/bin/env bash
# Submits a pretraining or Mix-CoT stage to an existing Ray cluster of several nodes.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
RAY_ADDRESS=http://HEAD:8265 bash launch/submit_stage_multinode.sh pretrain|mixcot CONFIG [--section.name VALUE ...]

Submits a stage with CONFIG to the job server of a Ray cluster, prints the job's id and how to follow and stop it, and
exits. The configs in launch/configs/mmada_8b are for 8 nodes of 8 GPUs. Example:
  bash launch/submit_stage_multinode.sh pretrain launch/configs/mmada_8b/stage1_1.yaml
The flags are those of the command: `unigrpo pretrain --help` and `unigrpo mixcot --help`.
Relative paths in the config and in flags start at the folder of the project. A copy of its files that git lists is sent
to the cluster. All nodes must share this folder, the data and the run directory under the same paths.
Environment: RAY_ADDRESS              the job server
             UNIGRPO_CLUSTER_PYTHON   interpreter of the job, if not that of .venv in this folder
TEXT
}

# shellcheck source=launch/submit.sh
source launch/submit.sh
read_submission "$@"
submit_to_cluster
