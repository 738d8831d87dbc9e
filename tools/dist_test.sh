#!/usr/bin/env bash
# Test in several processes: dist_test.sh CONFIG CHECKPOINT GPUS [options of
# test.py]. On a machine without GPUs, GPUS is the number of processes.
# PYTHON, NNODES, NODE_RANK, MASTER_ADDR and PORT come from the environment.
set -euo pipefail

CONFIG=$1
CHECKPOINT=$2
GPUS=$3

"${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$GPUS" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" \
    --launcher pytorch "${@:4}"
