#!/usr/bin/env bash
# One training on several nodes under SLURM, which goes on by itself in the same run when it is preempted.
#
#   sbatch --nodes=2 deploy/slurm-nodes.sh --backbone vit_b_16 --epochs 40        options of fmtl train
#
# torchrun starts a process per GPU (or PER_NODE of them) on every node, and starts all again when one dies. SLURM sends
# SIGUSR1 two minutes before the limit, and SIGTERM when the job is preempted: either keeps the state after the step in
# progress, and the job puts itself into the queue again. Its number names the launch, so that it goes on with its run. The
# data and the folder that it is started in lie on a disk that all nodes see.
#SBATCH --job-name=fmtl-nodes
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
set -uo pipefail
TRAINING= ASKED=
trap 'ASKED=yes; [[ -n $TRAINING ]] && kill -TERM "$TRAINING"' USR1 TERM
: "${SLURM_JOB_ID:?this is a job for sbatch}"
PER_NODE=${PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((SLURM_CPUS_PER_TASK / PER_NODE))}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # so that a node that died can join again
srun --kill-on-bad-exit=1 python -m torch.distributed.run \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$PER_NODE" --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-endpoint="$FIRST:29511" --rdzv-id="slurm-$SLURM_JOB_ID" \
  -m fmtl train "$@" &
TRAINING=$!
wait "$TRAINING"; CODE=$?
while kill -0 "$TRAINING" 2> /dev/null; do wait "$TRAINING"; CODE=$?; done  # a trap ends a wait before its time
if [[ -n $ASKED ]]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$CODE"
