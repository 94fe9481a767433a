#!/usr/bin/env bash
# Checks a GPU node before a run pays for it; --help lists the checks.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${UNIGRPO_VENV:-.venv}/bin/python
[ -x "$python" ] || python=python3
exec "$python" launch/preflight_gpu.py "$@"
