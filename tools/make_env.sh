#!/usr/bin/env bash
# Make .envs/NAME from requirements/NAME.txt: tools/make_env.sh openmixup|openmmlab [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
env=.envs/$name

step() { echo "[$name] $*"; }

step "virtual environment in $env"
"${2:-python3}" -m venv "$env"
pip() { "$env/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

step "torch and build tools (requirements/build.txt)"
pip install --quiet -r requirements/build.txt
if [ "$name" = openmmlab ]; then
    step "packages of requirements/openmmlab.txt; compiling mmcv's ops takes about 12 minutes on 2" \
        "cores, once: pip keeps the wheel"
    export MMCV_WITH_OPS=1 FORCE_CUDA="${FORCE_CUDA:-0}"
else
    step "packages of requirements/$name.txt"
    export MMCV_WITH_OPS=0
fi
pip install --no-build-isolation -r "requirements/$name.txt"
if [ "$name" = openmixup ]; then
    pip install --quiet --no-build-isolation --no-deps openmixup==0.2.9
fi
pip install --quiet --no-build-isolation --no-deps -e .
step "ready: $env/bin/python"
