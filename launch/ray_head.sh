# shellcheck shell=bash
# A job server to submit to: the one that RAY_ADDRESS names or that answers on this machine, else a local Ray head that
# is stopped again at the end, and nothing else is. Sourced after install.sh.

ray_bin=$(dirname "$PYTHON")/ray
export RAY_USAGE_STATS_ENABLED=0

job_server_answers() {
    "$PYTHON" - "$1" <<'PY' 2>/dev/null
import json, sys, urllib.request
with urllib.request.urlopen(sys.argv[1] + "/api/version", timeout=3) as answer:
    sys.exit("ray_version" not in json.load(answer))
PY
}

# Ports that nobody listens on now, one a line.
free_ports() {
    "$PYTHON" - "$1" <<'PY'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in sockets], sep="\n")
PY
}

start_or_find_ray() {
    if [ -n "${RAY_ADDRESS:-}" ]; then
        job_server_answers "$RAY_ADDRESS" || fail "no job server answers at RAY_ADDRESS=$RAY_ADDRESS; unset it to start a local one"
        return
    fi
    RAY_ADDRESS=http://127.0.0.1:8265
    export RAY_ADDRESS
    if job_server_answers "$RAY_ADDRESS"; then
        say "using the Ray job server at $RAY_ADDRESS"
        return
    fi
    start_local_ray
}

start_local_ray() {
    local ports gpus=() cpus
    cpus=$(nproc)
    # Without a GPU, two are declared, so that the same placement runs; three CPUs hold the smallest run.
    has_gpu || gpus=(--num-gpus 2)
    mapfile -t ports < <(free_ports 4)
    [ ${#ports[@]} -eq 4 ] || fail "no free port on this machine; end a program that listens on one, and start again"
    ray_tmp=$(mktemp -d /tmp/unigrpo-ray-XXXXXX)
    gcs_address=127.0.0.1:${ports[0]}
    RAY_ADDRESS=http://127.0.0.1:${ports[1]}
    say "starting a local Ray head (a few seconds)"
    trap stop_local_ray EXIT
    trap 'exit 130' INT TERM
    # In a process group of its own, so that stopping it stops its children and nobody else's.
    setsid "$ray_bin" start --head --block --disable-usage-stats --node-ip-address 127.0.0.1 --port "${ports[0]}" \
        --dashboard-host 127.0.0.1 --dashboard-port "${ports[1]}" --ray-client-server-port "${ports[2]}" \
        --dashboard-agent-listen-port "${ports[3]}" \
        --num-cpus $((cpus > 4 ? cpus : 4)) "${gpus[@]}" --object-store-memory 300000000 --temp-dir "$ray_tmp" \
        >"$ray_tmp.log" 2>&1 &
    ray_pid=$!
    local attempt
    for attempt in $(seq 90); do
        job_server_answers "$RAY_ADDRESS" && return
        kill -0 "$ray_pid" 2>/dev/null || break
        sleep 1
    done
    tail -n 20 "$ray_tmp.log" >&2
    fail "the local Ray head did not start within $attempt s; its last lines stand above, all of them in $ray_tmp.log"
}

stop_local_ray() {
    [ -n "${ray_pid:-}" ] || return 0
    say "stopping the local Ray head"
    kill -TERM -- "-$ray_pid" 2>/dev/null || true
    for _ in $(seq 10); do
        kill -0 -- "-$ray_pid" 2>/dev/null || break
        sleep 0.5
    done
    kill -KILL -- "-$ray_pid" 2>/dev/null || true
    rm -rf "$ray_tmp" "$ray_tmp.log"
}

# submit_job MODULE ARGUMENTS...: runs it as a job with this folder as its working directory; its status is the job's.
submit_job() {
    local environment
    environment=$("$PYTHON" - <<'PY'
import json, os, subprocess
commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() or "unknown"
# No keys here: Ray shows a job's environment to everybody who may look at it. Export them where Ray is started.
variables = {"UNIGRPO_COMMIT": commit, "UNIGRPO_SUBMIT_DIR": os.getcwd(), "PYTHONUNBUFFERED": "1"}
print(json.dumps({"excludes": [".venv", "runs", ".git"], "env_vars": variables}))
PY
    )
    "$ray_bin" job submit --address "$RAY_ADDRESS" --working-dir . --runtime-env-json "$environment" \
        -- "$PYTHON" -m "$@"
}
