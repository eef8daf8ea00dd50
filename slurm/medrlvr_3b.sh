#!/usr/bin/env bash
#SBATCH --job-name=medrlvr_3b
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Med-RLVR on Qwen2.5-3B, the whole recipe on one node of 8 H100: SFT on the labels, GRPO and PPO on multiple choice alone,
# each from the base, all of them and the base evaluated in and out of distribution, and compared.
#
#   MODEL=/models/Qwen2.5-3B DATA=/data/medqa_train.jsonl TEST_DATA=/data/medqa_test.jsonl,/data/mmlu_pro_health.jsonl \
#     CONTAINER_IMAGE=/images/medatron.sqsh ROLLOUT_IMAGE=/images/medatron-rollout.sqsh \
#     sbatch --time=24:00:00 slurm/medrlvr_3b.sh
#   METHODS=ppo MODEL=... DATA=... sbatch ... slurm/medrlvr_3b.sh    PPO alone
#   DRY_RUN=1 MODEL=... DATA=... CONTAINER_IMAGE=... ROLLOUT_IMAGE=... slurm/medrlvr_3b.sh    prints the commands
#
# Submit from the repository's root. The job looks at settings and nodes, converts MODEL (once), trains the baselines,
# starts the reward server and the servers of vLLM, trains the policies with one task a GPU, evaluates, compares and
# releases; its last line says where the result is. A method's run is RUN/METHOD, its evaluation
# RUN/METHOD/evaluation/METHOD.json, that of the base RUN/base/evaluation/base.json; the comparison is in RUN/comparison.
# Submitted again with the same RUN it goes on from the last checkpoints, also with further METHODS. A step that fails
# ends the job with that step's exit code.
# The signal comes 10 minutes ahead of the time limit, for the step under way and its checkpoint.
#
# Settings, from the environment:
#   MODEL             Hugging Face model folder (required, unless CHECKPOINT says what to begin with)
#   CHECKPOINT        Megatron checkpoint to begin with, such as checkpoints/step_N of an SFT run; MODEL is then what
#                     RELEASE is compared with
#   DATA              training examples, JSONL; several files with commas between (required)
#   TRACES            training examples with a meta.trace each, for sft_worked
#   TEST_DATA         examples to evaluate on, in and out of distribution; several files with commas between; nothing is
#                     evaluated and compared if empty
#   METHODS           what to train, in this order, with blanks between: sft_answer (on the labels alone), sft_worked (on
#                     TRACES), grpo, ppo (sft_answer, sft_worked where there are TRACES, grpo and ppo)
#   RELEASE           folder for the release of the last of METHODS in Hugging Face's form; none if empty
#   EXPERIMENT        a file of configs/experiment, of PPO; with _grpo and _sft at its end those of the others
#                     (med_rlvr_3b)

set -euo pipefail

JOB_FILE=medrlvr_3b.sh GPU_JOB=grpo
MODEL=${MODEL:-}
CHECKPOINT=${CHECKPOINT:-}
DATA=${DATA:-}
TRACES=${TRACES:-}
TEST_DATA=${TEST_DATA:-}
METHODS=${METHODS:-sft_answer ${TRACES:+sft_worked }grpo ppo}
RELEASE=${RELEASE:-}
ROLLOUT=${ROLLOUT:-vllm}
EXPERIMENT=${EXPERIMENT:-med_rlvr_3b}

# slurmd runs a copy of this file out of its spool folder, so the place of submission names the repository.
REPO=${REPO:-$(cd "$(dirname "$0")/.." && pwd)}
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then REPO=${SLURM_SUBMIT_DIR:-$REPO}; fi
if [[ ! -f $REPO/slurm/lib/job.sh ]]; then
  echo "$JOB_FILE: $REPO is not the repository; submit from its root, or set REPO to it" >&2
  exit 2
fi
# shellcheck source=slurm/lib/job.sh
. "$REPO/slurm/lib/job.sh"
# Each method has one or two, and so has its evaluation.
MAX_STEPS=40

need_methods() { # fills CHOSEN and OUTPUTS
  local method
  read -ra CHOSEN <<<"$METHODS"
  ((${#CHOSEN[@]})) || fail 2 "METHODS names none; expected some of: sft_answer sft_worked grpo ppo"
  OUTPUTS=()
  for method in "${CHOSEN[@]}"; do
    need_one_of METHODS "$method" sft_answer sft_worked grpo ppo
    [[ ${OUTPUTS[*]} != *"$RUN/$method"* ]] || fail 2 "METHODS=$METHODS: names $method twice"
    OUTPUTS+=("$RUN/$method")
    [[ $method != sft_worked ]] || need_files TRACES "a JSONL file of training examples with a meta.trace each"
  done
}

with_method() { # METHOD COMMAND...: runs it with the settings of that method
  local method=$1 EXPERIMENT=$EXPERIMENT DATA=$DATA OUTPUT=$RUN/$1
  case $method in
  sft_*) EXPERIMENT+=_sft ;;
  grpo) EXPERIMENT+=_grpo ;;
  esac
  if [[ $method == sft_worked ]]; then DATA=$TRACES; fi
  "${@:2}"
}

look_at_sft() { # SETTING...
  settings "$(model_to_check)" "parallel.processes=$((NODES * TASKS_PER_NODE))" "$@"
  on_head "$CPUS_PER_TASK" "$PYTHON" -m recipes.preflight --for sft "${SETTINGS[@]}"
  run_step preflight
}

case ${1:-} in -h | --help) ;; *) need_methods ;; esac
need_training_inputs "$@"
begin "$@"
for method in "${CHOSEN[@]}"; do
  if [[ $method == sft_* ]]; then with_method "$method" look_at_sft "data.teach=${method#sft_}"; fi
done
convert_model
# The servers of vLLM take the GPUs' memory from the moment that they start, and the baselines need none.
for method in "${CHOSEN[@]}"; do
  if [[ $method == sft_* ]]; then with_method "$method" train recipes.sft "data.teach=${method#sft_}"; fi
done
start_reward_server
start_rollout_servers "$START"
with_method base evaluate_model base "$START"
RESULTS=("$RUN/base/evaluation/base.json")
for method in "${CHOSEN[@]}"; do
  if [[ $method != sft_* ]]; then with_method "$method" train recipes.grpo; fi
  # That of the last one is released.
  OUTPUT=$RUN/$method
  TRAINED=$(last_checkpoint)
  with_method "$method" evaluate_model "$method" "$TRAINED"
  RESULTS+=("$OUTPUT/evaluation/$method.json")
done
if [[ -n $TEST_DATA ]]; then
  on_head "$CPUS_PER_TASK" "$PYTHON" -m recipes.compare "${RESULTS[@]}" --out "$RUN/comparison"
  run_step comparison
  RESULT+=", comparison $RUN/comparison"
fi
release_model
finish
