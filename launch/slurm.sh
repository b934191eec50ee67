#!/usr/bin/env bash
#SBATCH --job-name=tvt_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --signal=TERM@120
# One process for each GPU: JAX finds the others through SLURM and gives task i of a node its GPU i,
# so every task must see all of them (no --gpus-per-task, which hides the rest). Two minutes before
# the time is up SLURM sends SIGTERM: the run saves and ends. The same sbatch again continues it.
#   sbatch launch/slurm.sh configs/stage1.py runs/stage1 --config.data.train=PHOTOGRAPHS ...
set -euo pipefail
config=$1 workdir=$2
shift 2
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" .venv/bin/python -m tvt_jax.train --distributed --config "$config" --workdir "$workdir" "$@"
