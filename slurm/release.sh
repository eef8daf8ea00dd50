#!/usr/bin/env bash
#SBATCH --job-name=release
#SBATCH --nodes=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Makes a run's checkpoint fit to publish, or says why it is not: python -m conversion.release --help.
#
#   RUN=runs/med_u1_7b RELEASE=/release/med-u1-7b MODEL=/models/Qwen2.5-7B-Instruct CONTAINER_IMAGE=... \
#     sbatch slurm/release.sh
#   DRY_RUN=1 RUN=... RELEASE=... CONTAINER=none slurm/release.sh    prints the commands, needs no Slurm
#
# Settings, from the environment:
#   RELEASE           folder to create (required)
#   MODEL             Hugging Face folder of the base model, to compare config, tokenizer and template with

set -euo pipefail

JOB_FILE=release.sh TASKS_PER_NODE=1
RELEASE=${RELEASE:-}
MODEL=${MODEL:-}

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
  [[ -n $RELEASE ]] || fail 2 "RELEASE is not set; set it to the folder to create"
  if [[ -n $MODEL ]]; then need_model; fi
  need_release
  last_checkpoint >/dev/null
  ;;
esac
begin "$@"
release_model
finish
