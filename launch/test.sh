#!/usr/bin/env bash
# Sets up and passes the tests: linters, types, and the default tests, on any Linux machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'TEXT'
bash launch/test.sh [PYTEST ARGUMENTS]

Creates or reuses .venv, then runs ruff, pyright, shellcheck and the default tests (10 minutes at most on 2 cores).
With arguments, runs only pytest with them:  bash launch/test.sh tests/algorithm -k coupled
TEXT
    exit 0
fi

# shellcheck source=launch/install.sh
source launch/install.sh
bin=$(dirname "$PYTHON")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false DS_ACCELERATOR=cpu

if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi

failed=()
check() {
    local name=$1
    shift
    say "$name"
    "$@" || failed+=("$name")
}
check "ruff check" "$bin/ruff" check .
check "ruff format" "$bin/ruff" format --check .
check "shellcheck" "$bin/shellcheck" --external-sources launch/*.sh examples/tiny/*.sh .ci/run
check "pyright" "$bin/pyright" --pythonpath "$PYTHON"
check "pytest" "$PYTHON" -m pytest
if [ ${#failed[@]} -gt 0 ]; then
    fail "failed: ${failed[*]}"
fi
say "all checks passed"
