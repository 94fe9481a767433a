#!/usr/bin/env bash
# Submits UniGRPO to an existing Ray cluster of several nodes.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
RAY_ADDRESS=http://HEAD:8265 bash launch/submit_unigrpo_multinode.sh CONFIG [--section.name VALUE ...]

Submits UniGRPO with CONFIG to the job server of a Ray cluster, prints the job's id and how to follow and stop it, and
exits. Example for 8 nodes of 8 GPUs:
  bash launch/submit_unigrpo_multinode.sh launch/configs/mmada_8b/unigrpo.yaml --actor.num_nodes 8 \
    --rollout.batch_size 384
The flags are those of the command: `unigrpo train --help`.
Relative paths in the config and in flags start at the folder of the project. A copy of its files that git lists is sent
to the cluster. All nodes must share this folder, the data and the run directory under the same paths.
Environment: RAY_ADDRESS              the job server
             UNIGRPO_CLUSTER_PYTHON   interpreter of the job, if not that of .venv in this folder
TEXT
}

# shellcheck source=launch/submit.sh
source launch/submit.sh
read_submission unigrpo "$@"
submit_to_cluster
