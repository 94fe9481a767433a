#!/usr/bin/env bash
# Measures one GPU of 80 GB or more in one call of at most 8 minutes, without network. It needs torch, transformers and
# safetensors, and no other package of the project:
#   bash tests/benchmarks/gpu_suite.sh [--size small] [--minutes 8] [--out FILE] [--parts NAME,NAME]
# Every part writes its results to FILE as soon as it has them. --size small runs on a CPU. PYTHON names the Python.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
exec "${PYTHON:-python3}" "$root/tests/benchmarks/gpu_suite.py" "$@"
