#!/usr/bin/env bash
#SBATCH --job-name=evaluate
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Accuracy of a checkpoint on held-out questions.
#
#   RUN=runs/med_u1_7b TEST_DATA=/data/test.jsonl EXPERIMENT=med_u1_7b CONTAINER_IMAGE=/images/medatron.sqsh \
#     ROLLOUT_IMAGE=/images/medatron-rollout.sqsh sbatch --time=2:00:00 slurm/evaluate.sh
#   MODEL=/models/Qwen2.5-7B-Instruct NAME=before RUN=... TEST_DATA=... sbatch ... slurm/evaluate.sh    the base model
#   DRY_RUN=1 ... slurm/evaluate.sh    prints the commands, needs no Slurm
#
# Settings, from the environment:
#   TEST_DATA         examples, JSONL; several files with commas between (required)
#   CHECKPOINT        what to evaluate (the run's last; with MODEL, the base model itself)
#   MODEL             Hugging Face model folder, to evaluate the model that a run begins with; converted once
#   NAME              of the result, RUN/evaluation/NAME.json (after)
#   EXPERIMENT        a file of configs/experiment: prompts, lengths and layout are its own (none: the defaults)

set -euo pipefail

JOB_FILE=evaluate.sh GPU_JOB=evaluate
TEST_DATA=${TEST_DATA:-}
CHECKPOINT=${CHECKPOINT:-}
MODEL=${MODEL:-}
NAME=${NAME:-after}
EXPERIMENT=${EXPERIMENT:-}
ROLLOUT=${ROLLOUT:-vllm}

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
  need_files TEST_DATA "a JSONL file of test examples"
  [[ $NAME == *[![:space:]]* && $NAME != @(*/*|.|..) ]] ||
    fail 2 "NAME=$NAME: expected a name that a file can have, without /"
  need_one_line NAME
  if [[ -n $MODEL ]]; then
    [[ -z $CHECKPOINT ]] || fail 2 "MODEL and CHECKPOINT are both set; set the one to evaluate"
    need_model
  elif [[ -n $CHECKPOINT ]]; then
    need_checkpoint
  else
    START=$(last_checkpoint)
  fi
  ;;
esac
begin "$@"
convert_model
start_reward_server
start_rollout_servers "$START"
evaluate_model "$NAME" "$START"
finish
