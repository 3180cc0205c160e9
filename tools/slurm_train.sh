#!/usr/bin/env bash
# Train under Slurm, one task per GPU.
#
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF tools/train.py ...]
#
#   GPUS            tasks in all (default 8)
#   GPUS_PER_NODE   tasks per node (default: GPUS, at most 8)
#   CPUS_PER_TASK   default 5
#   SRUN_ARGS       more arguments for srun, e.g. "--time=24:00:00 --quotatype=auto"
#   PORT            of the first node, for the tasks to meet (default: MASTER_PORT, or 29500)
#   PYTHON          the interpreter (default: python)
#
# Preemption and time limits. With PreemptionHook in the config's custom_hooks, SIGTERM makes all tasks finish their
# iteration, save and exit with 0; the same command with --resume goes on from there. Have Slurm warn the tasks early
# enough for one validation, e.g. five minutes before the limit:
#
#   SRUN_ARGS="--signal=TERM@300" tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR --resume
#
# In a batch script, `#SBATCH --requeue`, `#SBATCH --signal=TERM@300` and PreemptionHook(requeue=True) put the job
# back into the queue by themselves; docs/slurm.md has such a script.
set -euo pipefail
usage="usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF tools/train.py ...]"
partition=${1:?$usage}
job_name=${2:?$usage}
config=${3:?$usage}
work_dir=${4:?$usage}
source "$(dirname "$0")/_launch.sh"
with_srun "$partition" "$job_name" train.py "$config" --work-dir="$work_dir" --launcher=slurm "${@:5}"
