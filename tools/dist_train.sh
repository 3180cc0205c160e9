#!/usr/bin/env bash
# Train on several GPUs with torchrun; without a GPU, on as many CPU processes with gloo.
#
#   tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF tools/train.py ...]
#
#   NNODES, NODE_RANK, MASTER_ADDR   several nodes: run the same command on each of them, with its own NODE_RANK
#   PORT                             of the first node (default 29500; one for each job on a node)
#   PYTHON                           the interpreter (default: python)
set -euo pipefail
usage="usage: $0 CONFIG GPUS [ARGUMENTS OF tools/train.py ...]"
config=${1:?$usage}
gpus=${2:?$usage}
source "$(dirname "$0")/_launch.sh"
with_torchrun "$gpus" train.py "$config" --launcher pytorch "${@:3}"
