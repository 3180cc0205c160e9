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
source "$(dirname "$0")/_launch.sh"
with_torchrun "$gpus" test.py "$config" "$checkpoint" --launcher pytorch "${@:4}"
