#!/usr/bin/env bash
# Make .envs/NAME from requirements/NAME.txt and its lock file:
#   tools/make_env.sh openmixup|openmmlab|onedl [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
env=.envs/$name

step() { echo "[$name] $*"; }

step "virtual environment in $env"
"${2:-python3}" -m venv "$env"
install() {
    "$env/bin/python" -m pip --disable-pip-version-check --no-input install \
        --constraint "requirements/$name.lock" --no-build-isolation "$@"
}

step "torch and build tools (requirements/build.txt)"
install --quiet -r requirements/build.txt
if [ "$name" != openmixup ]; then
    step "packages of requirements/$name.txt; compiling mmcv's ops takes about 12 minutes on 2" \
        "cores, once: pip keeps the wheel"
    export MMCV_WITH_OPS=1 FORCE_CUDA="${FORCE_CUDA:-0}"
else
    step "packages of requirements/$name.txt"
    export MMCV_WITH_OPS=0
fi
install -r "requirements/$name.txt"
if [ "$name" = openmixup ]; then
    install --quiet --no-deps openmixup==0.2.9
fi
install --quiet --no-deps -e .
step "ready: $env/bin/python"
