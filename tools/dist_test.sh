#!/usr/bin/env bash
# Test a checkpoint on several GPUs with torchrun; without a GPU, on as many CPU processes with gloo.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF tools/test.py ...]
#
# Environment variables as for tools/dist_train.sh.
set -euo pipefail
usage="usage: $0 CONFIG CHECKPOINT GPUS [ARGUMENTS OF tools/test.py ...]"
config=${1:?$usage}
checkpoint=${2:?$usage}
gpus=${3:?$usage}
tools=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$tools/..:${PYTHONPATH:-}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
