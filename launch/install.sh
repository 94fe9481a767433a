# shellcheck shell=bash
# Creates or reuses .venv in the project and installs what this machine needs. The other scripts source this file in bash
# with `set -euo pipefail`, from the root of the project. It sets PYTHON to the environment's interpreter.
# Environment: UNIGRPO_PYTHON=/path/to/python  the interpreter that makes .venv
#              UNIGRPO_VENV=.venv              another folder for the environment, such as .venv-cpu
#              UNIGRPO_INSTALL=never           use the environment as it is; it must have Ray
#              UNIGRPO_DEVICE=cpu|gpu          the kind of machine to install for and run on, instead of what nvidia-smi says

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi # no colours in files
say() { printf '%s[%s]%s %s\n' "$bold" "$(date +%H:%M:%S)" "$plain" "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

count_cpus() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; } # nproc counts no more than these variables allow

nvidia_smi_lists_gpus() { [[ "$(nvidia-smi -L 2>/dev/null)" == GPU* ]]; }

device_kind() {
    case ${UNIGRPO_DEVICE:-} in
    cpu | gpu) echo "$UNIGRPO_DEVICE" ;;
    '') if nvidia_smi_lists_gpus; then echo gpu; else echo cpu; fi ;;
    *) fail "UNIGRPO_DEVICE is '$UNIGRPO_DEVICE'; it must be cpu or gpu" ;;
    esac
}
has_gpu() { [ "$(device_kind)" = gpu ]; }

# An interpreter that can make an environment for the project.
is_supported() { "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${UNIGRPO_PYTHON:+"$UNIGRPO_PYTHON"} python3.11 python3.12 python3.10 python3 python; do
        if is_supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 with its venv module was found. Install one (on Debian: apt-get install" \
        "python3-venv), or name it: UNIGRPO_PYTHON=/path/to/python bash $0"
}

create_environment() {
    local base_python
    base_python=$(find_python)
    say "creating $venv with $base_python"
    "$base_python" -m venv --clear "$venv" || fail "could not create $venv; its message is above"
}

# attempt TEXT COMMAND...: runs the command with its output in the log; its status is the command's.
attempt() {
    local started=$SECONDS reporter status=0
    say "$1"
    report_progress "$started" &
    reporter=$!
    "${@:2}" >>"$log" 2>&1 </dev/null || status=$?
    kill "$reporter" 2>/dev/null || true
    wait "$reporter" 2>/dev/null || true
    return $status
}

# step TEXT COMMAND...: an attempt whose failure ends the script.
step() {
    attempt "$@" && return
    tail -n 40 "$log" >&2
    fail "this step failed; the last lines of $log are above. Run the same command again to continue the installation"
}

# Says every 20 s what the log's last line is, as long as this script runs.
report_progress() {
    # The descriptors are closed, so that a sleep that is left keeps no reader of this script's output waiting.
    while sleep 20 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        say "    $((SECONDS - $1)) s: $(tail -n 1 "$log" | tr '\r' '\n' | tail -n 1 | cut -c 1-90)"
    done
}

pip_install() { "$PYTHON" -m pip install --disable-pip-version-check --progress-bar off "$@"; }

# uv installs in seconds what takes pip a minute. It reads no pip settings, so the default index of those is handed over.
install_uv() {
    local version index
    version=$(grep '^uv==' requirements-cpu.txt)
    pip_install "$version" || return 0
    index=$("$PYTHON" -m pip config get global.index-url 2>/dev/null || true)
    index=${PIP_INDEX_URL:-$index}
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; fi
}

has_uv() { "$PYTHON" -m uv --version >/dev/null 2>&1; }
uv_install() { has_uv && UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-60}" "$PYTHON" -m uv pip install --python "$PYTHON" "$@"; }

# install_with_either TEXT ARGUMENTS...: what uv cannot install is tried with pip, which may be told of other places.
install_with_either() {
    attempt "$1" uv_install "${@:2}" && return
    say "uv could not install it (see $log); trying pip"
    step "$1" pip_install "${@:2}"
}

# The CPU build of torch, from where pip is told to look, else from where PyTorch keeps it, which uv knows.
find_cpu_torch() {
    pip_install --no-deps 'torch==2.13.0+cpu' && return
    UV_HTTP_RETRIES=1 uv_install --no-deps --torch-backend cpu 'torch==2.13.0'
}

install_cpu_torch() {
    attempt "2/6 torch 2.13.0, CPU build (200 MB)" find_cpu_torch && return
    say "warning: no CPU build of torch was found (see $log); installing the default build with 3 GB of CUDA libraries"
    install_default_torch
}

# Without the project's settings for uv, which tell it that torch has no CUDA libraries.
install_default_torch() { UV_NO_CONFIG=1 install_with_either "2/6 torch 2.13.0 with CUDA (3 GB)" 'torch==2.13.0'; }

# DeepSpeed and OpenRLHF are built from source, in environments of their own without torch. DeepSpeed's setup then looks
# for no CUDA toolkit (nvcc) and compiles nothing.
install_lock() { DS_BUILD_OPS=0 DS_ACCELERATOR=cpu install_with_either "$1" --no-deps -r requirements-cpu.lock; }

# PyTorch finds no GPU without an error where the driver is too old; here it is one, before a run trains on CPUs.
check_torch() {
    local driver=''
    if nvidia_smi_lists_gpus; then
        driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
    fi
    "$PYTHON" - "$1" "$driver" <<'PY'
import sys, torch

kind, driver = sys.argv[1:]
build = f"torch {torch.__version__} in {sys.prefix}"
if kind == "gpu" and torch.version.cuda is None:
    sys.exit(f"{build} is a CPU build; remove that folder and start again")
if kind == "gpu" and driver and not torch.cuda.is_available():
    sys.exit(
        f"{build} finds no GPU: it is built for CUDA {torch.version.cuda}, and the driver of this machine is {driver}. "
        "CUDA 13 needs driver 580 or later, or the cuda-compat package of a data-centre GPU"
    )
PY
}

# uv compiles no Python files, and the processes of a first run would each compile the same ones when they import them. A
# file that this Python cannot compile is none that it imports.
compile_packages() {
    local packages
    packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    (cd "$packages" && "$PYTHON" -W ignore -m compileall -q -j 0 ray deepspeed openrlhf transformers accelerate peft datasets sympy) || true
}

install_everything() {
    step "1/6 uv, which installs the rest" install_uv
    if [ "$1" = gpu ]; then
        install_default_torch
    else
        install_cpu_torch
    fi
    install_lock "3/6 requirements-cpu.lock: Ray, DeepSpeed, OpenRLHF, transformers and others (400 MB)"
    install_with_either "4/6 UniGRPO itself" --no-deps --no-build-isolation --editable .
    step "5/6 check of torch" check_torch "$1"
    step "6/6 compiling the packages that a run imports" compile_packages
}

# The kind of machine for whose torch somebody else has made the environment; nothing if it has no torch.
kind_of_torch() {
    "$PYTHON" -c '
import importlib.util, pathlib, runpy
torch = importlib.util.find_spec("torch")
if torch and torch.origin:
    cuda = runpy.run_path(str(pathlib.Path(torch.origin).with_name("version.py"))).get("cuda")
    print("gpu" if cuda else "cpu")
' 2>/dev/null || true
}

# An environment is of the kind of machine that it was installed for, and no machine of the other kind changes it.
refuse_other_kind() {
    [ -z "$1" ] || [ "$1" = "$2" ] || fail "$venv was installed for a $1 machine and this is a $2 machine. Set" \
        "UNIGRPO_VENV=.venv-$2 to install another environment for this machine, or remove $venv"
}

install_if_needed() {
    local kind=$1 stamp=$venv/.unigrpo-installed installed_kind='' installed_files='' files log=$venv/install.log
    files=$(cat requirements-cpu.lock pyproject.toml launch/install.sh | sha256sum | cut -d ' ' -f 1)
    if [ -f "$stamp" ]; then
        read -r installed_kind installed_files _ <"$stamp"
    else
        installed_kind=$(kind_of_torch)
    fi
    if [ "$installed_files" = "$files" ] && [ "$installed_kind/$kind" = gpu/cpu ] && ! nvidia_smi_lists_gpus; then
        return # what a GPU machine needs also runs where there is none, but where there is one it would be used
    fi
    refuse_other_kind "$installed_kind" "$kind"
    [ "$installed_files" != "$files" ] || return 0
    say "installing into $venv for a $kind machine, once; all messages go to $log"
    echo "$kind unfinished" >"$stamp"
    : >"$log"
    install_everything "$kind"
    echo "$kind $files" >"$stamp"
    say "installed"
}

# Ray starts its workers by a line for a shell in which the path of the interpreter is not quoted; they would never start.
refuse_special_characters() {
    local special=$' \t\n"\'$`\\&|;<>()*?[]!{}~#'
    [[ "$PYTHON" != *["$special"]* ]] || fail "the path $PYTHON has a space or another character that a shell interprets," \
        "with which Ray cannot start workers. Use another folder: UNIGRPO_VENV=/path/without/spaces bash $0"
}

# The environment as it is, for a command that needs no more than Ray.
use_as_it_is() {
    local ray
    ray=$(grep '^ray\[' requirements-cpu.txt)
    "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("ray") is None)' 2>/dev/null ||
        fail "$venv has no Ray, which this command needs and does not install. Create the environment:" \
            "python3 -m venv $venv && $venv/bin/pip install '$ray'"
}

prepare_environment() {
    local machine_kind
    if [ ! -d "$venv" ]; then
        create_environment
    elif ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        say "$venv is broken: it has no working pip"
        create_environment
    fi
    is_supported "$PYTHON" ||
        fail "$venv has $("$PYTHON" --version); UniGRPO needs 3.10, 3.11 or 3.12. Remove it and start again"
    machine_kind=$(device_kind)
    install_if_needed "$machine_kind"
    # The images of the tiny prompts are generated instead of tracked. Those of an earlier version are replaced.
    "$PYTHON" examples/tiny/prompt_images.py ||
        fail "the images of the tiny prompts could not be generated; the message is above"
}

# Images of containers set this; then every process of a run would compile again all files that it imports.
unset PYTHONDONTWRITEBYTECODE

[ "$(uname -sm)" = "Linux x86_64" ] || fail "UniGRPO runs on Linux x86-64; this is $(uname -sm)"

venv=${UNIGRPO_VENV:-.venv}
case $venv in /*) PYTHON=$venv/bin/python ;; *) PYTHON=$PWD/$venv/bin/python ;; esac
export PYTHON
refuse_special_characters
if [ "${UNIGRPO_INSTALL:-}" = never ]; then use_as_it_is; else prepare_environment; fi
