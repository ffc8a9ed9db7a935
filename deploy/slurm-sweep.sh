#!/usr/bin/env bash
# A sweep by many workers under SLURM: each task of the array is one, and they share a journal on a disk that all nodes see.
#
#   sbatch --array=1-8 deploy/slurm-sweep.sh --config experiments/sweep_real_photos.yaml        options of fmtl sweep
#
# With --storage postgresql+psycopg://HOST/NAME they share a database instead. A worker that is preempted gives its trial back,
# and any other goes on with it.
#SBATCH --job-name=fmtl-sweep
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
set -uo pipefail
: "${SLURM_ARRAY_TASK_ID:?this is an array, for sbatch --array}"
exec fmtl sweep "$@"
