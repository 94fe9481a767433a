# shellcheck shell=bash
# Finds a job server: the one that RAY_ADDRESS names, or one that this user has started on this machine, or else a local
# Ray head, which alone is stopped at the end. This file is sourced after install.sh.
# Environment: UNIGRPO_STOP_SECONDS=30  how long a job that is stopped may take to finish its step and save a checkpoint

ray_bin=$(dirname "$PYTHON")/ray
export RAY_USAGE_STATS_ENABLED=0
# A proxy cannot reach this machine's loopback. Programs read one spelling of the variable or the other.
no_proxy="${no_proxy:+$no_proxy,}${NO_PROXY:+$NO_PROXY,}127.0.0.1,localhost,::1"
export no_proxy NO_PROXY="$no_proxy"

# Prints why not, if none does.
job_server_answers() { "$PYTHON" launch/job_server.py answers "$1"; }

# Sets RAY_ADDRESS to the URL of a job server.
start_or_find_ray() {
    if [ -n "${RAY_ADDRESS:-}" ]; then
        local reason
        reason=$(job_server_answers "$RAY_ADDRESS") || fail "no job server answers at RAY_ADDRESS=$RAY_ADDRESS" \
            "($reason). Give its URL, such as http://HOST:8265, or unset RAY_ADDRESS to start a local one"
        return
    fi
    local status=0
    RAY_ADDRESS=$("$PYTHON" launch/job_server.py find) || status=$?
    export RAY_ADDRESS
    case $status in
    0) say "using your Ray job server at $RAY_ADDRESS" ;;
    1) start_local_ray ;;
    *) exit 1 ;; # its message is above
    esac
}

start_local_ray() {
    local ports options=() cpus remark=
    cpus=$(count_cpus)
    # Without a GPU, two are declared, so that the same placement runs; four CPUs hold the default workers.
    if ! has_gpu; then
        options=(--num-gpus 2 --object-store-memory 300000000)
        remark="; without a GPU, the head counts two processes of the CPU as GPUs"
    fi
    mapfile -t ports < <("$PYTHON" launch/free_ports.py 2)
    [ ${#ports[@]} -eq 2 ] || fail "no free port on this machine; end a program that listens on one, and start again"
    ray_tmp=$(mktemp -d /tmp/unigrpo-ray-XXXXXX)
    gcs_address=127.0.0.1:${ports[0]}
    RAY_ADDRESS=http://127.0.0.1:${ports[1]}
    keep_ray_to_ourselves
    say "starting a local Ray head at $gcs_address (a few seconds)$remark"
    clean_up_at_exit
    # In a process group of its own, so that stopping it stops its children and nobody else's.
    setsid "$PYTHON" launch/ray_node.py --end_with_parent --jobs_only start --head --block --disable-usage-stats \
        --node-ip-address 127.0.0.1 --port "${ports[0]}" --dashboard-host 127.0.0.1 --dashboard-port "${ports[1]}" \
        --num-cpus $((cpus > 4 ? cpus : 4)) "${options[@]}" --temp-dir "$ray_tmp" --log-color false >"$ray_tmp.log" 2>&1 &
    ray_pid=$!
    local started=$SECONDS
    while kill -0 "$ray_pid" 2>/dev/null && [ $((SECONDS - started)) -lt 180 ]; do
        job_server_answers "$RAY_ADDRESS" >/dev/null && return
        sleep 1
    done
    last_words >&2
    fail "the local Ray head did not start within $((SECONDS - started)) s; its last lines are above"
}

# The last lines of the head without those that every head begins with.
last_words() { grep -v ' INFO scripts.py:' "$ray_tmp.log" | grep -v '^ *$' | tail -n 20 || true; }

new_job_id() { echo "unigrpo-$(date +%Y%m%d-%H%M%S)-$$"; }

# Whoever reaches a port of Ray can run commands as its user. So the local head listens on loopback alone, where Ray would
# put the machine's outward address, and other users of this machine lack the token that it asks for.
keep_ray_to_ourselves() {
    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # what makes Ray's node address 127.0.0.1, on Linux as well
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$ray_tmp/auth_token
    unset RAY_AUTH_TOKEN # it would come before the file
    (umask 077 && new_token >"$RAY_AUTH_TOKEN_PATH")
}

new_token() { "$PYTHON" -c 'import secrets; print(secrets.token_hex(32))'; }

# check_settings SUBCOMMAND ARGUMENTS...: ends the script if a flag or the config file is wrong, before Ray starts.
check_settings() { "$PYTHON" -m unigrpo "$@" --check_settings || exit $?; }

# last_run_dir DEFAULT ARGUMENTS...: prints the run directory that the training command takes from these arguments.
last_run_dir() {
    local found=$1 previous='' argument
    for argument in "${@:2}"; do
        case $previous in --run_dir) found=$argument ;; esac
        case $argument in --run_dir=*) found=${argument#*=} ;; esac
        previous=$argument
    done
    printf '%s\n' "$found"
}

# submit_job SUBCOMMAND ARGUMENTS...: runs `unigrpo SUBCOMMAND` as a job in a copy of this folder; its status is the job's.
# It comes back early, and the job goes on, if a signal comes for which the script has a trap that does not exit.
submit_job() {
    clean_up_at_exit
    job_id=$(new_job_id)
    # In the background, since bash runs a trap only when the command in front has ended.
    "$PYTHON" launch/job_server.py submit --address "$RAY_ADDRESS" --job_id "$job_id" --ship_project -- \
        "${UNIGRPO_CLUSTER_PYTHON:-$PYTHON}" -m unigrpo "$@" &
    submit_pid=$!
    local status=0
    wait "$submit_pid" || status=$?
    kill -0 "$submit_pid" 2>/dev/null || submit_pid=
    return $status
}

# Stops the job, which finishes its step and saves a checkpoint if it can within UNIGRPO_STOP_SECONDS.
stop_job() {
    say "stopping the job"
    timeout "$((${UNIGRPO_STOP_SECONDS:-30} + 20))" "$ray_bin" job stop --address "$RAY_ADDRESS" "$job_id" \
        >/dev/null 2>&1 || true
}

clean_up_at_exit() {
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

clean_up() {
    trap '' HUP INT TERM
    if [ -n "${submit_pid:-}" ]; then
        kill "$submit_pid" 2>/dev/null || true
        stop_job
        say "the same command${run_dir:+ with --run_dir $run_dir} resumes from the last checkpoint, if there is one"
    fi
    if [ -n "${ray_pid:-}" ]; then
        if ! kill -0 "$ray_pid" 2>/dev/null; then
            last_words >&2
            say "the local Ray head ended by itself; its last lines are above. Run the same command again to continue"
        fi
        say "stopping the local Ray head"
        stop_group "$ray_pid"
        wait "$ray_pid" 2>/dev/null || true # else bash tells that it was killed
        rm -rf "$ray_tmp" "$ray_tmp.log" || true
    fi
}

# Ends a process group: kindly, and after five seconds by force.
stop_group() {
    local attempt
    kill -TERM -- "-$1" 2>/dev/null || true
    for ((attempt = 0; attempt < 10; attempt++)); do
        kill -0 -- "-$1" 2>/dev/null || return 0
        sleep 0.5
    done
    kill -KILL -- "-$1" 2>/dev/null || true
}
