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
# back into the queue by themselves; docs/scale.md has such a script.
set -euo pipefail
usage="usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF tools/train.py ...]"
partition=${1:?$usage}
job_name=${2:?$usage}
config=${3:?$usage}
work_dir=${4:?$usage}
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
[ -z "${PORT:-}" ] || export MASTER_PORT=$PORT
tools=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC2086  # SRUN_ARGS is a list
PYTHONPATH="$tools/..:${PYTHONPATH:-}" exec srun --partition="$partition" --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$tools/train.py" "$config" --work-dir="$work_dir" --launcher=slurm "${@:5}"
