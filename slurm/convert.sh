#!/usr/bin/env bash
#SBATCH --job-name=convert
#SBATCH --nodes=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Converts a model between Hugging Face's form and Megatron's, on one node and without a GPU; it streams, so memory is small.
#
#   SRC=/models/Llama-3.1-70B-Instruct DST=/models/llama-70b-megatron CONTAINER_IMAGE=... sbatch slurm/convert.sh
#   SRC=runs/grpo_70b/checkpoints/step_000200 DST=/models/my-70b ... sbatch slurm/convert.sh
#   DRY_RUN=1 SRC=... DST=... CONTAINER=none slurm/convert.sh    prints the commands, needs no Slurm
#
# What SRC is says where it goes. DST appears only when it is whole; an existing one is left as it is.
#
# Settings, from the environment:
#   SRC               Hugging Face model folder or Megatron checkpoint (required)
#   DST               folder to create (required)

set -euo pipefail

JOB_FILE=convert.sh TASKS_PER_NODE=1
SRC=${SRC:-}
DST=${DST:-}
RUN=${RUN:-runs/convert}

# slurmd runs a copy of this file out of its spool folder, so the place of submission names the repository.
REPO=${REPO:-$(cd "$(dirname "$0")/.." && pwd)}
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then REPO=${SLURM_SUBMIT_DIR:-$REPO}; fi
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then
  echo "$JOB_FILE: $REPO is not the repository; submit from its root, or set REPO to it" >&2
  exit 2
fi
# shellcheck source=slurm/lib/job.sh
. "$REPO/slurm/lib/job.sh"

case ${1:-} in
-h | --help) ;;
*)
  whole_path SRC DST
  [[ -f $SRC/manifest.json || -f $SRC/config.json ]] ||
    fail 2 "SRC=$SRC: no config.json or manifest.json there; expected a Hugging Face model folder or a Megatron checkpoint"
  [[ -n $DST ]] || fail 2 "DST is not set; set it to the folder to create"
  # In a later life it may be there: the job was ended between its conversion and its end.
  [[ ! -e $DST || $RESTARTS -gt 0 ]] || fail 2 "DST=$DST: exists; choose another folder, or delete it"
  mount_folder "$SRC"
  mount_folder "$(dirname "$DST")"
  ;;
esac
begin "$@"
direction=hf_to_megatron
if [[ -f $SRC/manifest.json ]]; then direction=megatron_to_hf; fi
on_head "$CPUS_PER_TASK" "$PYTHON" -m "conversion.$direction" "$SRC" "$DST"
run_step conversion
RESULT=$DST
finish
