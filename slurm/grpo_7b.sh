#!/usr/bin/env bash
#SBATCH --job-name=grpo_7b
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Med-U1 on Qwen2.5-7B: GRPO over choice, calculation and open answers on one node of 8 H100.
#
#   MODEL=/models/Qwen2.5-7B-Instruct SOURCE=/data/published CONTAINER_IMAGE=/images/medatron.sqsh \
#     ROLLOUT_IMAGE=/images/medatron-rollout.sqsh sbatch --time=24:00:00 slurm/grpo_7b.sh
#   DRY_RUN=1 MODEL=... SOURCE=... CONTAINER_IMAGE=... ROLLOUT_IMAGE=... slurm/grpo_7b.sh    prints the commands
#
# Submit from the repository's root. The job prepares the data (once), without training rows that are questions of the
# evaluation, looks at settings and nodes, converts MODEL (once), starts the reward server and those of vLLM, trains with
# one task a GPU, evaluates in and out of distribution and releases; its last line says where the result is.
# Submitted again with the same RUN it goes on from the last checkpoint. A step that fails ends the job with that step's
# exit code.
# The signal comes 10 minutes ahead of the time limit, for the step under way and its checkpoint.
#
# Settings, from the environment:
#   MODEL             Hugging Face model folder (required, unless CHECKPOINT says what to begin with)
#   CHECKPOINT        Megatron checkpoint to begin with, such as checkpoints/step_N of an SFT run; MODEL is then what
#                     RELEASE is compared with
#   SOURCE            folder with the published files, by the names of their authors, that prepare_data med-u1-run makes
#                     RUN/data of: training rows of all three kinds, and TEST_DATA in and out of distribution
#   DATA              training examples, JSONL, in place of SOURCE; several files with commas between (one of the two is
#                     required)
#   TEST_DATA         examples to evaluate the trained model on (what SOURCE's preparation makes; else none)
#   RELEASE           folder for the release in Hugging Face's form; none if empty
#   EXPERIMENT        a file of configs/experiment (med_u1_7b), such as med_u1_3b with its MODEL

set -euo pipefail

JOB_FILE=grpo_7b.sh GPU_JOB=grpo PREPARE=med-u1-run
MODEL=${MODEL:-}
CHECKPOINT=${CHECKPOINT:-}
SOURCE=${SOURCE:-}
DATA=${DATA:-}
TEST_DATA=${TEST_DATA:-}
RELEASE=${RELEASE:-}
ROLLOUT=${ROLLOUT:-vllm}
EXPERIMENT=${EXPERIMENT:-med_u1_7b}

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
