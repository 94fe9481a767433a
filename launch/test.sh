#!/usr/bin/env bash
# Installs the project and runs the linters, the type checker and the default tests, on any Linux machine without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'TEXT'
bash launch/test.sh [PYTEST ARGUMENTS]

Creates or reuses .venv, then runs the linters of .pre-commit-config.yaml, pyright and the default tests (about 10
minutes on 2 cores).
With arguments, runs only pytest with them:  bash launch/test.sh tests/algorithm -k coupled
TEXT
    exit 0
fi

# shellcheck source=launch/install.sh
source launch/install.sh
bin=$(dirname "$PYTHON")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false DS_ACCELERATOR=cpu
unset RAY_ADDRESS # the tests start clusters of their own

if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi

summary=()
num_failed=0
check() {
    local name=$1 started=$SECONDS outcome=passed
    shift
    say "$name"
    "$@" || { outcome=FAILED && num_failed=$((num_failed + 1)); }
    summary+=("$(printf '%-12s  %s  %4d s' "$name" "$outcome" $((SECONDS - started)))")
}
check "linters" env SKIP=pyright PATH="$bin:$PATH" pre-commit run --all-files
check "pyright" "$bin/pyright" --pythonpath "$PYTHON"
# Files go to free processes in their order: those that start Ray, which mostly wait, before the many short ones. The
# files of a folder whose names start with test_ray_ stay together, since they share a cluster, and so do those of hub/.
# One process more than CPUs, since tests that start Ray or other processes mostly wait.
num_cpus=$(count_cpus)
processes=$((num_cpus < 4 ? num_cpus + 1 : 4))
check "pytest" "$PYTHON" -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder
printf '\n'
printf '%s\n' "${summary[@]}"
[ "$num_failed" -eq 0 ] || fail "$num_failed of ${#summary[@]} checks failed"
say "all checks passed"
