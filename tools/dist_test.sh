#!/usr/bin/env bash
# Test on several GPUs (or processes): tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments]
set -euo pipefail
config=$1
checkpoint=$2
gpus=$3
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --nproc_per_node "$gpus" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
