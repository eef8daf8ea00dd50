#!/usr/bin/env bash
#SBATCH --job-name=grpo_70b
#SBATCH --nodes=8
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --signal=B:USR1@1200
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# GRPO of Llama-3.1-70B or Qwen2.5-72B with FP8 on 8 nodes x 8 H100, from a Hugging Face folder to a checkpoint.
#
#   MODEL=/models/Llama-3.1-70B-Instruct DATA=/data/train.jsonl CONTAINER_IMAGE=/images/medatron.sqsh \
#     ROLLOUT_IMAGE=/images/medatron-rollout.sqsh sbatch --time=24:00:00 slurm/grpo_70b.sh
#   DRY_RUN=1 MODEL=... DATA=... CONTAINER_IMAGE=... ROLLOUT_IMAGE=... slurm/grpo_70b.sh    prints the commands
#
# Submit from the repository's root. The job looks at settings and nodes, converts MODEL (once), starts the reward
# server and those of vLLM, trains with one task a GPU, evaluates and releases; its last line says where the result is.
# Submitted again with the same RUN it goes on from the last checkpoint. A step that fails ends the job with that step's
# exit code.
# The signal comes 20 minutes ahead of the time limit: a step is estimated at 2, with ROLLOUT=embedded at 5
# (python -m recipes.plan).
#
# Settings, from the environment:
#   MODEL             Hugging Face model folder (required, unless CHECKPOINT says what to begin with)
#   CHECKPOINT        Megatron checkpoint to begin with, such as checkpoints/step_N of an SFT run; MODEL is then what
#                     RELEASE is compared with
#   DATA              training examples, JSONL; several files with commas between (required)
#   TEST_DATA         examples to evaluate the trained model on; none if empty
#   RELEASE           folder for the release in Hugging Face's form; none if empty
#   EXPERIMENT        a file of configs/experiment (grpo_70b_fp8)

set -euo pipefail

JOB_FILE=grpo_70b.sh GPU_JOB=grpo
MODEL=${MODEL:-}
CHECKPOINT=${CHECKPOINT:-}
DATA=${DATA:-}
TEST_DATA=${TEST_DATA:-}
RELEASE=${RELEASE:-}
ROLLOUT=${ROLLOUT:-vllm}
ROLLOUT_TENSOR=${ROLLOUT_TENSOR:-8}
EXPERIMENT=${EXPERIMENT:-grpo_70b_fp8}

# slurmd runs a copy of this file out of its spool folder, so the place of submission names the repository.
REPO=${REPO:-$(cd "$(dirname "$0")/.." && pwd)}
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then REPO=${SLURM_SUBMIT_DIR:-$REPO}; fi
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then
  echo "$JOB_FILE: $REPO is not the repository; submit from its root, or set REPO to it" >&2
  exit 2
fi
# shellcheck source=slurm/lib/job.sh
. "$REPO/slurm/lib/job.sh"

grpo_job "$@"
