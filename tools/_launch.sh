# What the launching scripts share; to be sourced. Their environment variables are described in dist_train.sh and
# slurm_train.sh.

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$tools/..:${PYTHONPATH:-}

# with_torchrun GPUS TOOL CONFIG ... : tools/TOOL on so many processes of this node
with_torchrun() {
    exec "${PYTHON:-python}" "$tools/_torchrun.py" \
        --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$1" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
        "$tools/$2" "${@:3}"
}

# with_srun PARTITION JOB_NAME TOOL CONFIG ... : tools/TOOL in one task per GPU
with_srun() {
    local gpus=${GPUS:-8}
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    [ -z "${PORT:-}" ] || export MASTER_PORT=$PORT
    # shellcheck disable=SC2086  # SRUN_ARGS is a list
    exec srun --partition="$1" --job-name="$2" \
        --gres="gpu:$gpus_per_node" --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$tools/$3" "${@:4}"
}
