#!/usr/bin/env bash
# Make the environment .envs/NAME, from requirements/:
#   tools/make_env.sh NAME [PYTHON]
# mmlit     everything (no compiler)
# compiled  the same with mmcv 2's compiled ops, in place of mmlit's (12 minutes on 2 cores)
# classic   openmixup as its metadata asks for it: mmcv-full 1.7.2, numpy 1 (compiles as long)
# onedl     OneDL's forks of mmcv, mmengine, mmdet and mmseg (no compiler)
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
env=.envs/$name
python=$env/bin/python

step() { echo "[$name] $*"; }
install() {
    "$python" -m pip --disable-pip-version-check --no-input install --quiet "$@"
}

step "virtual environment in $env"
"${2:-python3}" -m venv "$env"
step "torch and setuptools (requirements/build.txt)"
lock=requirements/$([ "$name" = onedl ] && echo onedl || echo mmlit).lock
install --constraint "$lock" -r requirements/build.txt
case $name in
mmlit)
    step "packages of requirements/mmlit.txt"
    install --constraint "$lock" -r requirements/mmlit.txt
    ;;
compiled)
    step "packages of requirements/mmlit.txt, but mmcv with its ops"
    install --constraint "$lock" -r <(grep -v '^mmcv-lite' requirements/mmlit.txt)
    install ninja psutil
    MMCV_WITH_OPS=1 FORCE_CUDA="${FORCE_CUDA:-0}" install --no-build-isolation mmcv==2.1.0
    ;;
classic)
    step "packages of requirements/mmlit.txt for openmixup, and mmcv with its ops"
    install -r <(grep -vE '^(mmcv-lite|mmdet|mmsegmentation|mmpretrain|numpy)\b' \
        requirements/mmlit.txt) 'numpy<2'
    install ninja psutil
    MMCV_WITH_OPS=1 FORCE_CUDA="${FORCE_CUDA:-0}" install --no-build-isolation mmcv-full==1.7.2
    ;;
onedl)
    step "packages of requirements/onedl.txt"
    # onedl-mmcv compiles its ops unless its build sees no torch, as here, where pip isolates it.
    install --constraint "$lock" -r requirements/onedl.txt
    ;;
esac
install --no-deps --no-build-isolation -e .
if [ "$name" != onedl ]; then
    step "openmixup, and mmcv 1 where there is none"
    "$python" -m mmlit.install_openmixup
fi
step "ready: $python"
