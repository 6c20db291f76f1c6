#!/bin/bash
# One training on whole machines of a SLURM cluster, one task a GPU.   Run: sbatch --nodes 2 configs/scale/slurm.sh CONFIG.yaml [OPTIONS]
# Before the time is up the run writes a checkpoint and this script queues itself again; it goes on from there. Never run on a cluster yet.
#SBATCH --job-name=maskgen
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=maskgen-%j.log
#SBATCH --open-mode=append
set -u
config=${1:?sbatch configs/scale/slurm.sh CONFIG.yaml [OPTIONS]}
shift
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

# srun passes SIGTERM to its tasks. Each finishes its step, writes the checkpoint with the others and exits with 143.
srun --kill-on-bad-exit=0 maskgen fit --config "$config" --trainer.strategy fsdp2 \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" --ckpt_path last "$@"
ended=$?
if [ "$ended" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$ended"
