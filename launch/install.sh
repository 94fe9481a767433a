# shellcheck shell=bash
# Creates or reuses .venv in the project and installs what this machine needs. Sourced by the other scripts, in bash
# with `set -euo pipefail`, from the root of the project. Sets PYTHON to the environment's interpreter.

say() { printf '\033[1m[%s]\033[0m %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has_gpu() { [[ "$(nvidia-smi -L 2>/dev/null)" == GPU* ]]; }

# An interpreter that can make an environment for the project.
is_supported() { "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${UNIGRPO_PYTHON:-} python3.11 python3.12 python3.10 python3 python; do
        if is_supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 with its venv module found. Install one (on Debian: apt-get install" \
        "python3-venv), or name it: UNIGRPO_PYTHON=/path/to/python bash $0"
}

create_environment() {
    local base_python
    base_python=$(find_python)
    say "creating .venv with $base_python"
    "$base_python" -m venv --clear .venv || fail "could not create .venv; its message stands above"
}

# step TEXT COMMAND...: ends the script if the command fails.
step() {
    say "$1"
    shift
    "$@" || fail "that step failed; its messages stand above. Start again to go on with the installation"
}

pip_install() { "$PYTHON" -m pip install --disable-pip-version-check "$@"; }

# The CPU build of torch. Any index may be out of reach, so each way is followed by the next.
install_cpu_torch() {
    pip_install --no-deps 'torch==2.13.0+cpu' 2>/dev/null && return
    say "pip's indexes have no CPU build; asking uv, which knows where PyTorch keeps it"
    pip_install uv &&
        UV_HTTP_RETRIES=1 UV_HTTP_TIMEOUT=60 timeout 900 "$PYTHON" -m uv pip install --python "$PYTHON" --no-deps \
            --torch-backend cpu 'torch==2.13.0' && return
    say "warning: no CPU build within reach. Installing the default build, which brings gigabytes of CUDA libraries"
    pip_install --no-deps 'torch==2.13.0'
}

# OpenRLHF and flash-attn are built against torch, so nothing here is built in an environment without it.
# DS_BUILD_OPS=0: DeepSpeed compiles nothing.
install_all_of() { DS_BUILD_OPS=0 pip_install --no-build-isolation -r "$1"; }

install_openrlhf() {
    if [ "$1" = gpu ]; then
        pip_install --no-build-isolation flash-attn==2.8.3 openrlhf==0.11.2 && return
        say "warning: flash-attn could not be built, which takes a CUDA toolkit (nvcc). UniGRPO does not call it;" \
            "packed sequences and ring attention of OpenRLHF would"
    fi
    pip_install --no-deps openrlhf==0.11.2
}

install_everything() {
    step "1/5 pip and build tools" pip_install --upgrade pip 'setuptools>=77,<90' wheel ninja
    if [ "$1" = gpu ]; then
        step "2/5 torch 2.13.0 with CUDA (gigabytes)" pip_install 'torch==2.13.0'
        step "3/5 requirements.txt: vLLM, DeepSpeed, Ray, transformers (gigabytes)" install_all_of requirements.txt
        step "4/5 flash-attn and OpenRLHF" install_openrlhf gpu
    else
        step "2/5 torch 2.13.0, CPU build (200 MB)" install_cpu_torch
        step "3/5 requirements-cpu.txt: DeepSpeed, Ray, transformers (300 MB)" install_all_of requirements-cpu.txt
        step "4/5 OpenRLHF" install_openrlhf cpu
    fi
    step "5/5 UniGRPO itself" pip_install --no-deps --no-build-isolation --editable .
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "UniGRPO runs on Linux x86-64; this is $(uname -sm)"

PYTHON="$PWD/.venv/bin/python"
export PYTHON
if [ ! -d .venv ]; then
    create_environment
elif ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    say ".venv is broken: it has no working pip"
    create_environment
fi
is_supported "$PYTHON" || fail ".venv has $("$PYTHON" --version); UniGRPO needs 3.10, 3.11 or 3.12. Remove .venv and start again"
if has_gpu; then device_kind=gpu; else device_kind=cpu; fi
stamp=.venv/.unigrpo-installed
fingerprint="$device_kind $(cat requirements.txt requirements-cpu.txt pyproject.toml launch/install.sh | sha256sum)"
if [ "$(cat $stamp 2>/dev/null)" != "$fingerprint" ]; then
    say "installing into .venv for a $device_kind machine; once, a few minutes"
    install_everything "$device_kind"
    echo "$fingerprint" >$stamp
    say "installed"
fi
