#!/usr/bin/env bash
#SBATCH --job-name=sft
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Supervised fine-tuning on worked traces: the warm start before GRPO, or the baseline beside it.
#
#   MODEL=/models/Qwen2.5-3B DATA=/data/traces.jsonl EXPERIMENT=... CONTAINER_IMAGE=/images/medatron.sqsh \
#     sbatch --time=8:00:00 slurm/sft.sh
#   DRY_RUN=1 MODEL=... DATA=... CONTAINER_IMAGE=... slurm/sft.sh    prints the commands, needs no Slurm
#
# Rows of DATA want a meta.trace, or EXTRA=data.teach=answer, which learns labels alone (python -m recipes.sft --help).
# The checkpoint is one that GRPO may begin with: CHECKPOINT=RUN/checkpoints/step_N. Submitted again with the same RUN
# the job goes on.
#
# Settings, from the environment:
#   MODEL             Hugging Face model folder (required, unless CHECKPOINT says what to begin with)
#   CHECKPOINT        Megatron checkpoint to begin with, such as checkpoints/step_N of an SFT run; MODEL is then what
#                     RELEASE is compared with
#   DATA              training examples, JSONL; several files with commas between (required)
#   TEST_DATA         examples to evaluate the trained model on; none if empty
#   RELEASE           folder for the release in Hugging Face's form; none if empty
#   EXPERIMENT        a file of configs/experiment (none: the defaults of configs/, and EXTRA)

set -euo pipefail

JOB_FILE=sft.sh GPU_JOB=sft
MODEL=${MODEL:-}
CHECKPOINT=${CHECKPOINT:-}
DATA=${DATA:-}
TEST_DATA=${TEST_DATA:-}
RELEASE=${RELEASE:-}
EXPERIMENT=${EXPERIMENT:-}
RUN=${RUN:-runs/sft}

# slurmd runs a copy of this file out of its spool folder, so the place of submission names the repository.
REPO=${REPO:-$(cd "$(dirname "$0")/.." && pwd)}
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then REPO=${SLURM_SUBMIT_DIR:-$REPO}; fi
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then
  echo "$JOB_FILE: $REPO is not the repository; submit from its root, or set REPO to it" >&2
  exit 2
fi
# shellcheck source=slurm/lib/job.sh
. "$REPO/slurm/lib/job.sh"

need_training_inputs "$@"
begin "$@"
convert_model
train recipes.sft
if [[ -n $TEST_DATA ]]; then
  start_reward_server
  start_rollout_servers "$TRAINED"
fi
evaluate_model after "$TRAINED"
release_model
finish
