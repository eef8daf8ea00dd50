#!/usr/bin/env bash
#SBATCH --job-name=grpo_70b
#SBATCH --nodes=8
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# GRPO of Llama-3.1-70B or Qwen2.5-72B with FP8 on 8 nodes x 8 H100, from a Hugging Face folder to a checkpoint.
#
#   MODEL=/models/Llama-3.1-70B-Instruct DATA=/data/train.jsonl CONTAINER_IMAGE=/images/medatron.sqsh \
#     sbatch --time=24:00:00 slurm/grpo_70b.sh
#   DRY_RUN=1 MODEL=... DATA=... CONTAINER_IMAGE=... slurm/grpo_70b.sh    prints the commands, needs no Slurm
#
# Submit from the repository's root. The job converts MODEL (once), starts the reward server, trains with one task a
# GPU and evaluates; its last line says where the result is. Submitted again with the same RUN it goes on from the last
# checkpoint. A step that fails ends the job with that step's exit code.
#
# Settings, from the environment:
#   MODEL             Hugging Face model folder (required)
#   DATA              training examples, JSONL; several files with commas between (required)
#   TEST_DATA         examples to evaluate the trained model on; none if empty
#   RUN               the run's folder, on a file system that all nodes see (runs/EXPERIMENT)
#   EXPERIMENT        a file of configs/experiment (grpo_70b)
#   EXTRA             more overrides for training and evaluation: EXTRA="trainer.steps=50 rollout.group_size=32"
#   CONTAINER         pyxis, or none to run with VENV or the python3 on PATH (pyxis)
#   CONTAINER_IMAGE   image built from ./Dockerfile: a .sqsh file or a registry reference
#   CONTAINER_MOUNTS  more mounts, SOURCE:TARGET with commas between; what the settings name is mounted anyway
#   VENV              virtual environment for CONTAINER=none
#   TASKS_PER_NODE    ranks a node (its GPUs)
#   CPUS_PER_TASK     cores a rank (the node's, divided)
#   REWARD_WORKERS    processes of the reward server (8)
#   READY_DEADLINE    seconds until the reward server must be ready (600)
#   REPO              this repository, if the job is not submitted from its root
#   DRY_RUN           1 prints the commands and runs nothing
# The number of nodes is sbatch's: sbatch --nodes=4 slurm/grpo_70b.sh

set -euo pipefail

MODEL=${MODEL:-}
DATA=${DATA:-}
TEST_DATA=${TEST_DATA:-}
EXPERIMENT=${EXPERIMENT:-grpo_70b}
RUN=${RUN:-runs/$EXPERIMENT}
EXTRA=${EXTRA:-}
CONTAINER=${CONTAINER:-pyxis}
CONTAINER_IMAGE=${CONTAINER_IMAGE:-}
CONTAINER_MOUNTS=${CONTAINER_MOUNTS:-}
VENV=${VENV:-}
TASKS_PER_NODE=${TASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}
REWARD_WORKERS=${REWARD_WORKERS:-8}
READY_DEADLINE=${READY_DEADLINE:-600}
DRY_RUN=${DRY_RUN:-0}

# slurmd runs a copy of this file out of its spool folder, so the place of submission names the repository.
REPO=${REPO:-$(cd "$(dirname "$0")/.." && pwd)}
if [[ ! -f $REPO/slurm/lib/common.sh ]]; then REPO=${SLURM_SUBMIT_DIR:-$REPO}; fi
if [[ ! -f $REPO/slurm/lib/common.sh ]]; then
  echo "grpo_70b.sh: $REPO is not the repository; submit from its root, or set REPO to it" >&2
  exit 2
fi
# shellcheck source=slurm/lib/common.sh
. "$REPO/slurm/lib/common.sh"

case ${1:-} in
'') ;;
-h | --help)
  usage
  exit
  ;;
*) fail 2 "unknown argument '$1'; settings are environment variables, see --help" ;;
esac

need_hf_model MODEL "$MODEL"
need_files DATA "$DATA" "a JSONL file of training examples"
if [[ -n $TEST_DATA ]]; then need_files TEST_DATA "$TEST_DATA" "a JSONL file of test examples"; fi
need_runtime

MODEL=$(realpath "$MODEL")
RUN=$(realpath -m "$RUN")
# The second is where the links of a Hugging Face cache lead.
for folder in "$MODEL" "$(dirname "$(realpath "$MODEL/config.json")")" "$REPO" "$RUN"; do mount_folder "$folder"; done
mount_folders_of "$DATA${TEST_DATA:+,$TEST_DATA}"
read -ra extra <<<"$EXTRA"

begin_job 8
# What Megatron-Bridge's 70B recipe sets on H100, and NeMo-RL for FP8 block scaling.
set_default CUDA_DEVICE_MAX_CONNECTIONS 1 TORCH_NCCL_AVOID_RECORD_STREAMS 1 NCCL_NVLS_ENABLE 0 \
  PYTORCH_CUDA_ALLOC_CONF expandable_segments:True NVTE_FP8_BLOCK_SCALING_FP32_SCALES 1

if [[ ! -f $RUN/megatron/manifest.json ]]; then
  on_head "$CPUS_PER_TASK" "$PYTHON" -m conversion.hf_to_megatron "$MODEL" "$RUN/megatron"
  run_step conversion
fi

start_reward_server "$REWARD_WORKERS" "$READY_DEADLINE"

settings=("experiment=$EXPERIMENT" "output=$(hydra_path "$RUN")" "reward.url=$REWARD_URL")
on_every_gpu "$PYTHON" -m recipes.grpo "${settings[@]}" "model.path=$(hydra_path "$RUN/megatron")" \
  "data.train=$(hydra_files "$DATA")" "${extra[@]}"
run_step training
checkpoint=$(last_checkpoint)
result="checkpoint $checkpoint"

if [[ -n $TEST_DATA ]]; then
  on_every_gpu "$PYTHON" -m recipes.evaluate "${settings[@]}" name=after "model.path=$(hydra_path "$checkpoint")" \
    "data.test=$(hydra_files "$TEST_DATA")" "${extra[@]}"
  run_step evaluation
  result+=", evaluation $RUN/evaluation/after.json"
fi

stop_steps
say "to a Hugging Face folder: $PYTHON -m conversion.megatron_to_hf $checkpoint DST"
say "done: $result"
