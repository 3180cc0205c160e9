#!/usr/bin/env bash
# Test a checkpoint under Slurm, one task per GPU.
#
#   tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENTS OF tools/test.py ...]
#
# Environment variables as for tools/slurm_train.sh.
set -euo pipefail
usage="usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [ARGUMENTS OF tools/test.py ...]"
partition=${1:?$usage}
job_name=${2:?$usage}
config=${3:?$usage}
checkpoint=${4:?$usage}
source "$(dirname "$0")/_launch.sh"
with_srun "$partition" "$job_name" test.py "$config" "$checkpoint" --launcher=slurm "${@:5}"
