# shellcheck shell=bash
# What the submit scripts share. Sourced from the root of the project; `usage` is the script's own help.

# read_submission unigrpo|pretrain|mixcot CONFIG FLAGS...: sets module and arguments, or prints the help.
read_submission() {
    case " ${*:1:2} " in
    *' --help '* | *' -h '*)
        usage
        exit 0
        ;;
    esac
    case ${1:-} in
    unigrpo | pretrain | mixcot) module=unigrpo.cli.train_$1 ;;
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
    start_or_find_ray
    say "submitting to $RAY_ADDRESS; Ctrl-C stops the job"
    submit_job "$module" "${arguments[@]}"
}

# Hands it to the cluster of RAY_ADDRESS and comes back at once.
submit_to_cluster() {
    # shellcheck source=launch/install.sh
    source launch/install.sh
    # shellcheck source=launch/ray_head.sh
    source launch/ray_head.sh
    [ -n "${RAY_ADDRESS:-}" ] || fail "RAY_ADDRESS is not set: give the URL of the cluster's job server, such as" \
        "RAY_ADDRESS=http://HEAD:8265"
    job_server_answers "$RAY_ADDRESS" || fail "no job server answers at RAY_ADDRESS=$RAY_ADDRESS. On the head node:" \
        "ray start --head; from outside: ssh -N -L 8265:127.0.0.1:8265 HEAD, and RAY_ADDRESS=http://127.0.0.1:8265"
    local environment job_id
    environment=$(job_environment)
    job_id=$(new_job_id)
    "$ray_bin" job submit --no-wait --address "$RAY_ADDRESS" --submission-id "$job_id" --working-dir . \
        --runtime-env-json "$environment" -- "${UNIGRPO_CLUSTER_PYTHON:-$PYTHON}" -m "$module" "${arguments[@]}" \
        >/dev/null || fail "the job server did not take the job; its message stands above"
    say "job $job_id"
    say "follow: $ray_bin job logs --follow --address $RAY_ADDRESS $job_id"
    say "status: $ray_bin job status --address $RAY_ADDRESS $job_id"
    say "stop:   $ray_bin job stop --address $RAY_ADDRESS $job_id"
}
