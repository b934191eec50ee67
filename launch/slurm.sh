#!/usr/bin/env bash
#SBATCH --job-name=tvt_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains on one or several nodes (sbatch --nodes=4 ...), through preemption and time limits:
#   sbatch launch/slurm.sh --config configs/stage1.py --workdir runs/stage1 [options of tvt_jax.train]
# One process for each GPU: JAX finds the others through SLURM and gives task i of a node its GPU i,
# so every task must see all of them (no --gpus-per-task, which hides the rest). Two minutes before
# the time is up SLURM sends SIGTERM: the run saves and ends, and the job queues again to resume it.
# After a crash likewise, 100 times in all; not after a mistake (exit status 2).
set -uo pipefail
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" .venv/bin/python -m tvt_jax.train --distributed "$@"
status=$?
if [ "$status" != 0 ] && [ "$status" != 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
