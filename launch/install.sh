# shellcheck shell=bash
# Creates or reuses .venv in the project and installs what this machine needs. Sourced by the other scripts, in bash,
# from the root of the project. Sets PYTHON to the environment's interpreter.

say() { printf '\033[1m[%s]\033[0m %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

# The first interpreter of a supported version.
find_python() {
    local candidate
    for candidate in ${UNIGRPO_PYTHON:-} python3.11 python3.12 python3.10 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 found; install one, or name it: UNIGRPO_PYTHON=/path/to/python bash $0"
}

# The CPU build of torch. Any index may be out of reach, so each way is followed by the next.
install_cpu_torch() {
    say "torch 2.13.0, CPU build"
    pip_install --no-deps 'torch==2.13.0+cpu' 2>/dev/null && pip_install 'torch==2.13.0+cpu' && return
    # pip knows no CPU build: uv finds PyTorch's own index by itself.
    pip_install uv && UV_HTTP_TIMEOUT=60 timeout 900 \
        "$PYTHON" -m uv pip install --quiet --python "$PYTHON" --torch-backend cpu 'torch==2.13.0' && return
    say "no CPU build within reach; installing the default build, which brings gigabytes of CUDA libraries"
    pip_install 'torch==2.13.0'
}

pip_install() { "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@"; }

install_everything() {
    pip_install --upgrade pip 'setuptools>=77,<90' wheel ninja
    if [ "$1" = gpu ]; then
        say "the GPU set of requirements.txt: torch, vLLM, DeepSpeed, Ray (several GB)"
        pip_install -r requirements.txt
        say "flash-attn and OpenRLHF"
        pip_install --no-build-isolation flash-attn==2.8.3 openrlhf==0.11.2
    else
        install_cpu_torch
        say "DeepSpeed, Ray, transformers and the rest of requirements-cpu.txt"
        # DeepSpeed is built from source; it looks for torch while it is built, and nothing of it has to be compiled.
        DS_BUILD_OPS=0 pip_install --no-build-isolation -r requirements-cpu.txt
        say "OpenRLHF"
        pip_install --no-deps openrlhf==0.11.2
    fi
    pip_install --no-deps --no-build-isolation --editable .
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "UniGRPO runs on Linux x86-64; this is $(uname -sm)"

PYTHON="$PWD/.venv/bin/python"
if has_gpu; then device_kind=gpu; else device_kind=cpu; fi
if [ ! -x "$PYTHON" ]; then
    base_python=$(find_python)
    say "creating .venv with $base_python"
    "$base_python" -m venv .venv || fail "could not create .venv; on Debian: apt-get install python3-venv"
fi
stamp=.venv/.unigrpo-installed
fingerprint="$device_kind $(cat requirements.txt requirements-cpu.txt pyproject.toml launch/install.sh | sha256sum)"
if [ "$(cat $stamp 2>/dev/null)" != "$fingerprint" ]; then
    say "installing into .venv for a $device_kind machine; a few minutes, once"
    install_everything "$device_kind" || fail "the installation failed; its messages stand above. Start again to go on"
    echo "$fingerprint" >$stamp
fi
export PYTHON
