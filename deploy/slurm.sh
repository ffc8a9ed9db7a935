#!/usr/bin/env bash
# A training under SLURM that is preempted, or reaches its time limit, and goes on by itself in the same run.
#
#   sbatch deploy/slurm.sh --backbone vit_b_16 --epochs 40        options of fmtl train
#
# SLURM sends SIGUSR1 two minutes before the limit, and SIGTERM when the job is preempted: either keeps the state after the
# step in progress and ends fmtl with exit code 143, on which the job puts itself into the queue again.
#SBATCH --job-name=fmtl
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
set -uo pipefail
TRAINING=
trap '[[ -n $TRAINING ]] && kill -USR1 "$TRAINING"' USR1 TERM
FOLDER=runs/slurm-${SLURM_JOB_ID:?this is a job for sbatch}
if [[ -f $FOLDER/record/journal.jsonl ]]; then
  fmtl train --resume "$FOLDER" &
else
  fmtl train --run-folder "$FOLDER" "$@" &
fi
TRAINING=$!
wait "$TRAINING"; CODE=$?
while [[ $CODE -gt 128 && $CODE != 143 ]] || kill -0 "$TRAINING" 2> /dev/null; do  # a trap ends a wait before its time
  wait "$TRAINING"; NOW=$?
  [[ $NOW = 127 || $NOW = "$CODE" ]] && break
  CODE=$NOW
done
if [[ $CODE = 143 ]]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$CODE"
