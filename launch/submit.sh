# shellcheck shell=bash
# Functions of the submit scripts, which source this file from the root of the project and define `usage`, their help.

# read_submission unigrpo|pretrain|mixcot CONFIG FLAGS...: sets subcommand and arguments, or prints the help.
read_submission() {
    case " ${*:1:2} " in
    *' --help '* | *' -h '*)
        usage
        exit 0
        ;;
    esac
    case ${1:-} in
    unigrpo) subcommand=train ;;
    pretrain | mixcot) subcommand=$1 ;;
    *) submission_error "the first argument is '${1:-}'; it must be pretrain, mixcot or unigrpo" ;;
    esac
    [ -n "${2:-}" ] || submission_error "no config; name a YAML file, such as launch/configs/mmada_8b/unigrpo.yaml"
    [ -f "$2" ] || submission_error "$2: no such file (looked in $PWD)"
    arguments=(--config "$2" "${@:3}")
}

submission_error() {
    printf 'error: %s\n\n' "$*" >&2
    usage >&2
    exit 2
}

# Runs it on this machine: on the job server at hand, or on a local Ray head that lives as long as the job.
submit_here() {
    # shellcheck source=launch/install.sh
    source launch/install.sh
    # shellcheck source=launch/ray_head.sh
    source launch/ray_head.sh
    check_settings "$subcommand" "${arguments[@]}"
    start_or_find_ray
    say "submitting to $RAY_ADDRESS; Ctrl-C stops the job"
    submit_job "$subcommand" "${arguments[@]}"
}

# Hands it to the cluster of RAY_ADDRESS and comes back at once. Nothing is installed: the environment may be one that
# running jobs use, and a submission needs only Ray.
submit_to_cluster() {
    UNIGRPO_INSTALL=never
    # shellcheck source=launch/install.sh
    source launch/install.sh
    # shellcheck source=launch/ray_head.sh
    source launch/ray_head.sh
    [ -n "${RAY_ADDRESS:-}" ] || fail "RAY_ADDRESS is not set: give the URL of the cluster's job server, such as" \
        "RAY_ADDRESS=http://HEAD:8265"
    local reason job_id
    reason=$(job_server_answers "$RAY_ADDRESS") || fail "no job server answers at RAY_ADDRESS=$RAY_ADDRESS ($reason)." \
        "On the head node: ray start --head; from outside: ssh -N -L 8265:127.0.0.1:8265 HEAD, and" \
        "RAY_ADDRESS=http://127.0.0.1:8265"
    job_id=$(new_job_id)
    export UNIGRPO_STOP_SECONDS="${UNIGRPO_STOP_SECONDS:-600}" # nobody waits in front of it
    "$PYTHON" launch/job_server.py submit --no_wait --address "$RAY_ADDRESS" --job_id "$job_id" --ship_project -- \
        "${UNIGRPO_CLUSTER_PYTHON:-$PYTHON}" -m unigrpo "$subcommand" "${arguments[@]}" ||
        fail "the job server did not accept the job; its message is above"
    local ray address
    printf -v ray %q "$ray_bin"
    printf -v address %q "$RAY_ADDRESS"
    say "job $job_id"
    say "follow: $ray job logs --follow --address $address $job_id"
    say "status: $ray job status --address $address $job_id"
    say "stop:   $ray job stop --address $address $job_id"
}
