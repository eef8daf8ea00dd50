# Settings of every job, from the environment:
#   RUN               the run's folder, on a file system that all nodes see (runs/EXPERIMENT)
#   EXTRA             more overrides for training and evaluation, with blanks or line ends between, which within quotes
#                     or brackets belong to the setting: EXTRA="trainer.steps=50 data.mix={choice: 2, text: 1}"
#   ENGINE            megatron or nemo_aligner (megatron)
#   CONTAINER         pyxis, apptainer, or none to run with VENV or the python3 on PATH (pyxis)
#   CONTAINER_IMAGE   image built from ./Dockerfile: a .sqsh or .sif file or a registry reference
#   CONTAINER_MOUNTS  more mounts, SOURCE:TARGET with commas between; what the settings name is mounted anyway
#   VENV              virtual environment for CONTAINER=none
#   TASKS_PER_NODE    ranks a node (its GPUs)
#   CPUS_PER_TASK     cores a rank (the node's, divided)
#   MASTER_PORT       where the ranks meet on the first node (20000 + job id, modulo 10000)
#   REWARD_WORKERS    processes of the reward server (8)
#   REWARD_NODES      1 puts the reward server on a node of its own (0); submit with that node as a second component:
#                     REWARD_NODES=1 sbatch --nodes=8 ... : --nodes=1 --exclusive slurm/grpo_70b.sh
#   ROLLOUT           what samples: vllm (servers, started by the job) or embedded (the trainer itself; vllm in
#                     grpo_*.sh, medrlvr_3b.sh and evaluate.sh, embedded in sft.sh)
#   ROLLOUT_NODES     of the job's nodes, the last so many run the servers; 0 runs them on the trainer's own GPUs, where
#                     they sleep while it trains (0)
#   ROLLOUT_TENSOR    GPUs of a copy of the model that samples, within a node (1; 8 in grpo_70b.sh)
#   ROLLOUT_IMAGE     image of the servers: the Dockerfile's stage rollout, or another one with vLLM (CONTAINER_IMAGE)
#   ROLLOUT_PORT      of the first server of a node, the others take those after it (10000 + job id x 16, modulo 10000)
#   MEDATRON_VLLM_PYTHON  interpreter with vLLM, where that is not the image's python3 or VENV's
#   READY_DEADLINE    seconds until the reward server must be ready, and until those of vLLM must be (900)
#   REQUEUE           how the job goes on after the time limit: requeue, chain (a new job that waits for this one, where
#                     the cluster forbids requeueing) or none (requeue)
#   MAX_RESTARTS      how often it may go on, after time limits and lost nodes together (20)
#   FORCE             1 replaces a RELEASE that is there, once the new one is whole (0)
#   REPO              this repository, if the job is not submitted from its root
#   DRY_RUN           1 prints the commands and runs nothing
# Arguments, instead of sbatch: --help; --check [SBATCH OPTION...] finds what can be known before submission; --submit
# [SBATCH OPTION...] checks, copies the code into RUN and submits that copy, so that a queued job does not change with
# the checkout. The number of nodes is sbatch's: sbatch --nodes=4 slurm/... Relative paths begin where they were typed.
#
# Ahead of the time limit the ranks save and stop, and the job goes on in its next life, as it does after a lost node,
# as long as each life brings the run further. A life runs the code of the first one, from RUN/code/NAME-JOB.

# This file is sourced by slurm/*.sh once REPO is known; theirs is the order of the steps, here is what a step takes.
# shellcheck shell=bash

# shellcheck source=slurm/lib/steps.sh
. "$REPO/slurm/lib/steps.sh"
RUN=${RUN:-runs/${EXPERIMENT:-job}}
whole_path RUN REPO
RESTARTS=$((${SLURM_RESTART_COUNT:-0} + ${CHAINED:-0}))
# Each job has a copy of its own: one that begins beside another must not replace what that one runs.
CODE=$RUN/code/${JOB_FILE%.sh}-${SLURM_JOB_ID:-JOB_ID}
if [[ $REPO == "$RUN"/code/* ]]; then CODE=$REPO; fi
if ((RESTARTS > 0)) && [[ $REPO != "$CODE" && -f $CODE/slurm/lib/job.sh ]]; then
  REPO=$CODE
  # shellcheck source=slurm/lib/job.sh
  . "$REPO/slurm/lib/job.sh"
  return
fi

EXTRA=${EXTRA:-}
ENGINE=${ENGINE:-megatron}
CONTAINER=${CONTAINER:-pyxis}
CONTAINER_IMAGE=${CONTAINER_IMAGE:-}
CONTAINER_MOUNTS=${CONTAINER_MOUNTS:-}
VENV=${VENV:-}
TASKS_PER_NODE=${TASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-8}}
CPUS_PER_TASK=${CPUS_PER_TASK:-}
REWARD_WORKERS=${REWARD_WORKERS:-8}
REWARD_NODES=${REWARD_NODES:-0}
ROLLOUT=${ROLLOUT:-embedded}
ROLLOUT_NODES=${ROLLOUT_NODES:-0}
ROLLOUT_TENSOR=${ROLLOUT_TENSOR:-1}
ROLLOUT_IMAGE=${ROLLOUT_IMAGE:-}
ROLLOUT_PORT=${ROLLOUT_PORT:-}
MEDATRON_VLLM_PYTHON=${MEDATRON_VLLM_PYTHON:-}
READY_DEADLINE=${READY_DEADLINE:-900}
REQUEUE=${REQUEUE:-requeue}
MAX_RESTARTS=${MAX_RESTARTS:-20}
FORCE=${FORCE:-0}
DRY_RUN=${DRY_RUN:-0}
# What a shell on a GPU node may have left behind; ranks would take it for their own.
unset RANK WORLD_SIZE LOCAL_RANK
# What the job begins with: the converted model, in the form that the engine takes, unless a CHECKPOINT is given.
CONVERTED=$RUN/$([[ $ENGINE == nemo_aligner ]] && echo model.nemo || echo megatron)
START=$CONVERTED
# Where training, its evaluation and its release lie; all such folders of the job, which mostly has one.
OUTPUT=$RUN OUTPUTS=("$RUN")
# How many lives in a row may end where they began.
MAX_IDLE_LIVES=3
# What training and evaluation are told of the servers that sample.
ROLLOUT_SETTINGS=()
# More steps than a life has, restarts of the reward server with them.
MAX_STEPS=20
# How long ranks wait for one another in the canary.
CANARY_MINUTES=5

# shellcheck source=slurm/lib/lives.sh
. "$REPO/slurm/lib/lives.sh"
# shellcheck source=slurm/lib/servers.sh
. "$REPO/slurm/lib/servers.sh"

# --- the beginning ----------------------------------------------------------------------------------------------------

begin() { # ARGUMENT...: answers --help, --check and --submit; in a job it sets everything up and looks at the nodes
  case ${1:-} in
  '') ;;
  -h | --help)
    usage
    exit
    ;;
  --check | --submit) ;;
  *) fail 2 "unknown argument '$1'; settings are environment variables, see --help" ;;
  esac
  need_one_of CONTAINER "$CONTAINER" pyxis apptainer none
  need_one_of ENGINE "$ENGINE" megatron nemo_aligner
  need_one_of REQUEUE "$REQUEUE" requeue chain none
  need_one_of REWARD_NODES "$REWARD_NODES" 0 1
  need_one_of FORCE "$FORCE" 0 1
  need_one_of DRY_RUN "$DRY_RUN" 0 1
  need_number TASKS_PER_NODE 1 1024
  need_number CPUS_PER_TASK 1 4096
  need_number MASTER_PORT 1024 65535
  need_number REWARD_WORKERS 1 1024
  need_number READY_DEADLINE 1 86400
  need_number MAX_RESTARTS 0 1000
  need_one_line EXPERIMENT CONTAINER_MOUNTS
  need_runtime
  need_rollout
  need_extra
  local folder
  for folder in "$REPO" "$RUN"; do mount_folder "$folder"; done
  case ${1:-} in
  --check)
    check_before_submission "${@:2}"
    exit
    ;;
  --submit)
    check_before_submission "${@:2}"
    submit "${@:2}"
    exit
    ;;
  esac
  begin_job
  if prepares; then prepare_data; fi
  if [[ -n ${GPU_JOB:-} ]]; then look_before; fi
}

need_model() { # MODEL, mounted with the folder that the links of a Hugging Face cache lead to
  need_hf_model MODEL
  mount_folder "$MODEL"
  mount_folder "$(dirname "$(realpath "$MODEL/config.json")")"
}

need_checkpoint() { # CHECKPOINT, with which the job begins
  whole_path CHECKPOINT
  [[ -f $CHECKPOINT/manifest.json ]] || fail 2 "CHECKPOINT=$CHECKPOINT: no manifest.json there; expected a checkpoint"
  mount_folder "$CHECKPOINT"
  START=$CHECKPOINT
}

prepares() { # whether the job makes its DATA of SOURCE; PREPARE is the kind of recipes.prepare_data that does
  [[ -n ${PREPARE:-} && -n $SOURCE ]]
}

need_source() { # SOURCE, whose preparation makes DATA
  [[ -z $DATA ]] || fail 2 "SOURCE and DATA are both set; set SOURCE to have DATA made of it, or DATA alone"
  whole_path SOURCE
  [[ -d $SOURCE ]] || fail 2 "SOURCE=$SOURCE: no such folder; expected one with the published files"
  [[ $RUN/ != "$SOURCE"/* ]] || fail 2 "RUN=$RUN: lies in SOURCE=$SOURCE; set RUN to another folder"
  mount_folder "$SOURCE"
}

take_prepared() { # DATA, and TEST_DATA where none is given, will be the prepared files in RUN/data
  # Not exported: a next life has them of SOURCE again.
  export -n DATA
  DATA=$(in_list "$RUN/data/train.jsonl")
  if [[ -n $TEST_DATA ]]; then return; fi
  export -n TEST_DATA
  TEST_DATA=$(in_list "$RUN/data/in_distribution.jsonl"),$(in_list "$RUN/data/out_of_distribution.jsonl")
}

rehearse_preparation() { # PYTHON: DATA and TEST_DATA are made in a folder that goes with this script
  local folder
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$folder'" EXIT
  (cd "$REPO" && "$1" -m recipes.prepare_data "$PREPARE" "$SOURCE" "$folder/data") ||
    fail 2 "SOURCE=$SOURCE: cannot be prepared; the reason is above"
  DATA=${DATA//"$RUN/data/"/"$folder/data/"} TEST_DATA=${TEST_DATA//"$RUN/data/"/"$folder/data/"}
}

need_release() { # RELEASE, whose folder is to be written in
  whole_path RELEASE
  if [[ -n $MODEL && ($RELEASE/ == "$MODEL"/* || $MODEL/ == "$RELEASE"/*) ]]; then
    fail 2 "RELEASE=$RELEASE: MODEL=$MODEL is there; choose another folder"
  fi
  # In a later life it may be there: the job was ended between its release and its end.
  [[ ! -e $RELEASE || $FORCE == 1 || $RESTARTS -gt 0 ]] ||
    fail 2 "RELEASE=$RELEASE: exists; choose another folder, or set FORCE=1 to replace it once the new one is whole"
  mkdir -p "$(dirname "$RELEASE")" || fail 2 "RELEASE=$RELEASE: cannot write to its folder; choose another"
  mount_folder "$(dirname "$RELEASE")"
}

need_training_inputs() { # ARGUMENT...: what training takes, unless only help is asked for
  case ${1:-} in -h | --help) return ;; esac
  if [[ -n $CHECKPOINT ]]; then need_checkpoint; fi
  if [[ -n $MODEL || -z $CHECKPOINT ]]; then need_model; fi
  if prepares; then need_source; else need_files DATA "a JSONL file of training examples"; fi
  if [[ -n $TEST_DATA ]]; then need_files TEST_DATA "a JSONL file of test examples"; fi
  if prepares; then take_prepared; fi
  if [[ -n $RELEASE ]]; then
    [[ -n $MODEL ]] || fail 2 "RELEASE is set without MODEL; set MODEL to the base model, which a release is compared with"
    need_release
  fi
}

grpo_job() { # ARGUMENT...: from MODEL to a checkpoint, its evaluation and its release
  need_training_inputs "$@"
  begin "$@"
  convert_model
  start_reward_server
  start_rollout_servers "$START"
  train recipes.grpo
  evaluate_model after "$TRAINED"
  release_model
  finish
}

need_extra() { # fills WORDS with the settings of EXTRA, which may not say again what a variable says
  local i key own
  split_settings "$EXTRA"
  for i in "${!WORDS[@]}"; do
    key=${WORDS[i]%%=*} own=
    case ${key##+} in
    output) own=RUN ;;
    model.path) own="MODEL or CHECKPOINT" ;;
    data.train) own=DATA ;;
    data.test) own=TEST_DATA ;;
    engine) own=ENGINE ;;
    name) own="NAME of evaluate.sh" ;;
    rollout | rollout.sampler) own=ROLLOUT ;;
    rollout.vllm.urls) own="ROLLOUT and ROLLOUT_NODES" ;;
    rollout.tensor) if [[ $ROLLOUT == vllm ]]; then own=ROLLOUT_TENSOR; fi ;;
    parallel.processes) own="TASKS_PER_NODE and sbatch --nodes" ;;
    data.validation)
      EXTRA_FILES=${WORDS[i]#*=}
      if [[ $EXTRA_FILES != [[]*[^[:space:]]*[]] ]]; then continue; fi
      EXTRA_FILES=${EXTRA_FILES:1:-1}
      need_files EXTRA_FILES "a JSONL file of validation examples" "EXTRA: data.validation"
      WORDS[i]="$key=[$(as_text "$EXTRA_FILES")]"
      ;;
    data.style | data.few_shot)
      EXTRA_FILES=${WORDS[i]#*=}
      # A style's name, or no worked examples.
      if [[ $EXTRA_FILES != *.yaml* && ${key##+} == data.style || $EXTRA_FILES == null ]]; then continue; fi
      need_one_file EXTRA_FILES "a prompt file, or one of worked examples" "EXTRA: ${key##+}"
      WORDS[i]="$key=$(as_text "$EXTRA_FILES")"
      ;;
    esac
    [[ -z $own ]] || fail 2 "EXTRA: ${WORDS[i]}: set it by $own, which other steps of the job read too"
  done
  # As --submit hands it on.
  if ((${#WORDS[@]})); then printf -v EXTRA '%s\n' "${WORDS[@]}"; fi
}

settings() { # MODEL_PATH MORE...: fills SETTINGS, the overrides of training, evaluation and their checks
  SETTINGS=(${EXPERIMENT:+"experiment=$EXPERIMENT"} "output=$(as_text "$OUTPUT")" "model.path=$(as_text "$1")")
  if [[ -n ${DATA:-} ]]; then SETTINGS+=("data.train=[$(as_text "$DATA")]"); fi
  if [[ -n ${TEST_DATA:-} ]]; then SETTINGS+=("data.test=[$(as_text "$TEST_DATA")]"); fi
  if [[ $ENGINE != megatron ]]; then SETTINGS+=("engine=$ENGINE"); fi
  SETTINGS+=("${ROLLOUT_SETTINGS[@]}" "${@:2}" "${WORDS[@]}")
}

model_to_check() { # prints the model that the job will begin with, as far as it is there
  if [[ -f $START/manifest.json || -z $MODEL ]]; then
    printf '%s' "$START"
  else
    printf '%s' "$MODEL"
  fi
}

nodes_of() { # SBATCH_OPTION...: prints how many the job will have
  local nodes
  nodes=$(sed -n 's/^#SBATCH --nodes=//p' "$0")
  while (($#)); do
    case $1 in
    --nodes=* | -N?*) nodes=${1#--nodes=} nodes=${nodes#-N} ;;
    --nodes | -N) nodes=${2:-} ;;
    :) break ;;
    esac
    shift
  done
  # Of a range Slurm gives the most it can.
  nodes=${nodes##*-}
  [[ $nodes =~ ^[1-9][0-9]{0,5}$ ]] || fail 2 "--nodes=$nodes: expected a number of nodes"
  printf '%s' "$nodes"
}

trainer_nodes() { # NODES: prints how many of the job's nodes those of the servers leave
  (($1 > ROLLOUT_NODES)) ||
    fail 2 "ROLLOUT_NODES=$ROLLOUT_NODES leaves none of the job's $1 nodes for training; ask for more with --nodes"
  printf '%s' $(($1 - ROLLOUT_NODES))
}

check_before_submission() { # SBATCH_OPTION...: what can be known on a login node
  local nodes python="${VENV:+$VENV/bin/}python3" DATA=${DATA:-} TEST_DATA=${TEST_DATA:-}
  nodes=$(nodes_of "$@")
  nodes=$(trainer_nodes "$nodes")
  if [[ -n ${GPU_JOB:-} ]]; then
    if (cd "$REPO" && "$python" -c 'import recipes.preflight') 2>/dev/null; then
      if prepares && [[ ! -d $RUN/data ]]; then rehearse_preparation "$python"; fi
      settings "$(model_to_check)" "parallel.processes=$((nodes * TASKS_PER_NODE))"
      (cd "$REPO" && "$python" -m recipes.preflight --for "$GPU_JOB" "${SETTINGS[@]}") ||
        fail 2 "not fit to be submitted; the reason is above"
    else
      say "$python cannot import this project, so the job itself will check the settings; set VENV to check them here"
    fi
  fi
  say "nothing found that would stop the job on $nodes nodes of $TASKS_PER_NODE tasks"
}

submit() { # SBATCH_OPTION...
  command -v sbatch >/dev/null || fail 2 "sbatch: not found; this is no login node of a Slurm cluster"
  if [[ $REPO != "$CODE" ]]; then CODE=$RUN/code/${JOB_FILE%.sh}-$(date +%Y%m%d-%H%M%S)-$HOSTNAME-$$; fi
  keep_code
  export REPO=$CODE RUN
  exec sbatch "$@" "$CODE/slurm/$JOB_FILE"
}

keep_code() { # copies the code into the run's folder, whole or not at all
  if [[ $REPO == "$CODE" || -d $CODE ]]; then return; fi
  local copy=$CODE.partial
  # A node may have been lost while it copied.
  rm -rf "$copy"
  mkdir -p "$copy" || fail 2 "cannot write to RUN=$RUN; set RUN to a folder on a file system that all nodes see"
  if ! tar -C "$REPO" --exclude=__pycache__ -cf - configs conversion recipes reward_server slurm | tar -C "$copy" -xf -; then
    rm -rf "$copy"
    fail 2 "cannot copy the code to RUN=$RUN; free some space there, or set RUN to another file system"
  fi
  mv "$copy" "$CODE"
}

drop_old_code() { # the copies of jobs that are over; a younger one may be that of a job about to be submitted
  local copy name
  for copy in "$RUN"/code/*-*/; do
    copy=${copy%/} name=${copy##*/}
    name=${name%.partial}
    if [[ -O $copy && $copy != "$CODE" && -n $(find "$copy" -maxdepth 0 -mmin +60) ]] &&
      ! grep -qF -e "$copy/slurm/" <<<"$JOBS" && ! grep -q "^${name##*-} " <<<"$JOBS"; then
      rm -rf "$copy"
    fi
  done
}

need_code_as_submitted() { # a plain sbatch leaves the code in the checkout until the first life copies it
  local since changed
  since=$(SLURM_TIME_FORMAT=standard squeue --noheader --jobs="$SLURM_JOB_ID" --format=%V | head -n 1)
  # Not the time of modification, which rsync and cp bring along. Slurm's times are whole seconds.
  changed=$(cd "$REPO" && find configs conversion recipes reward_server slurm -type f ! -path '*/__pycache__/*' \
    -newerct "@$(($(date -d "$since" +%s) + 1))" -print -quit)
  [[ -z $changed ]] || fail 2 "$REPO/$changed: changed after this job was submitted ($since); submit it again, best" \
    "with slurm/$JOB_FILE --submit, whose jobs keep the code that they were submitted with"
}

begin_job() { # sets NODES, HEAD, LOGS and what every rank finds in its environment
  # What Megatron-Bridge's 70B recipe sets on H100, and NeMo-RL for FP8 block scaling.
  local defaults=(CUDA_DEVICE_MAX_CONNECTIONS 1 TORCH_NCCL_AVOID_RECORD_STREAMS 1 NCCL_NVLS_ENABLE 0
    PYTORCH_CUDA_ALLOC_CONF expandable_segments:True NVTE_FP8_BLOCK_SCALING_FP32_SCALES 1 PYTHONUNBUFFERED 1)
  if [[ $DRY_RUN == 1 ]]; then
    NODES=${SLURM_JOB_NUM_NODES:-$(sed -n 's/^#SBATCH --nodes=//p' "$0")}
    NODES=$(trainer_nodes "$NODES")
    ROLLOUT_PORT=${ROLLOUT_PORT:-ROLLOUT_PORT}
    HEAD=HEAD_NODE LOGS=$RUN/logs/JOB_ID CPUS_PER_TASK=${CPUS_PER_TASK:-CPUS_PER_TASK}
    say "names in capitals are known when the job runs"
    set_default MASTER_ADDR "$HEAD" MASTER_PORT MASTER_PORT "${defaults[@]}"
    return
  fi
  [[ -n ${SLURM_JOB_ID:-} ]] || fail 2 "not in a Slurm job; submit it with sbatch, or set DRY_RUN=1 to see its commands"
  NODES=$(trainer_nodes "$SLURM_JOB_NUM_NODES")
  local hosts
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
  HEAD=${hosts%%$'\n'*}
  LOGS=$RUN/logs/$SLURM_JOB_ID
  if ((RESTARTS)); then LOGS+=.$RESTARTS; fi
  mkdir -p "$LOGS" || fail 2 "cannot write to RUN=$RUN; set RUN to a folder on a file system that all nodes see"
  begin_life
  if [[ $REPO != "$CODE" ]] && ((RESTARTS == 0)); then need_code_as_submitted; fi
  keep_code
  REPO=$CODE
  drop_old_code
  # Without it srun gives a task one core.
  CPUS_PER_TASK=${CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE > TASKS_PER_NODE ? SLURM_CPUS_ON_NODE / TASKS_PER_NODE : 1))}
  # Below the range that the kernel hands out, and another one for every job on a shared node.
  set_default MASTER_ADDR "$HEAD" MASTER_PORT $((20000 + SLURM_JOB_ID % 10000)) "${defaults[@]}"
  ROLLOUT_PORT=${ROLLOUT_PORT:-$((10000 + SLURM_JOB_ID * 16 % 10000))}
  trap stop_steps EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  trap time_is_up USR1
  number_steps_apart
}

look_before() { # the settings on the first node, and a canary on every rank, before anything costs hours
  settings "$(model_to_check)" "parallel.processes=$((NODES * TASKS_PER_NODE))" \
    "parallel.timeout_minutes=$CANARY_MINUTES"
  on_head "$CPUS_PER_TASK" "$PYTHON" -m recipes.preflight --for "$GPU_JOB" "${SETTINGS[@]}"
  run_step preflight
  on_every_gpu "$PYTHON" -m recipes.canary "${SETTINGS[@]}"
  run_step canary
  look_for_vllm
}

# --- the steps --------------------------------------------------------------------------------------------------------

prepare_data() { # SOURCE to RUN/data, unless that is there
  on_head "$CPUS_PER_TASK" "$PYTHON" -m recipes.prepare_data "$PREPARE" "$SOURCE" "$RUN/data" --reuse
  run_step preparation
}

convert_model() { # MODEL to START, unless that is there, or is CHECKPOINT or a run's last one
  local layout=()
  if [[ $START != "$CONVERTED" ]]; then return; fi
  if [[ $ENGINE == nemo_aligner ]]; then layout=(--layout nemo); fi
  # Another job of this run may be at it too, and a RUN may hold another MODEL.
  on_head "$CPUS_PER_TASK" "$PYTHON" -m conversion.hf_to_megatron "$MODEL" "$START" --reuse "${layout[@]}"
  run_step conversion
}

train() { # MODULE SETTING...: goes on from the run's last checkpoint, or begins with the converted model
  settings "$START" ${REWARD_URL:+"reward.url=$REWARD_URL"} "${@:2}"
  on_every_gpu "$PYTHON" -m "$1" "${SETTINGS[@]}"
  run_step training
  TRAINED=$(last_checkpoint)
  RESULT="checkpoint $TRAINED"
}

evaluate_model() { # NAME CHECKPOINT: answers TEST_DATA, where there is any
  if [[ -z ${TEST_DATA:-} ]]; then return; fi
  settings "$2" "reward.url=$REWARD_URL" "name=$(as_text "$1")"
  on_every_gpu "$PYTHON" -m recipes.evaluate "${SETTINGS[@]}"
  run_step evaluation
  RESULT="${RESULT:+$RESULT, }evaluation $OUTPUT/evaluation/$1.json"
}

release_model() { # the run's last checkpoint to the folder RELEASE, where one is named
  if [[ -z ${RELEASE:-} ]]; then return; fi
  local more=()
  if [[ -n ${MODEL:-} ]]; then more=(--base "$MODEL"); fi
  if [[ $FORCE == 1 ]]; then more+=(--force); fi
  on_head "$CPUS_PER_TASK" "$PYTHON" -m conversion.release "$OUTPUT" "$RELEASE" "${more[@]}"
  run_step release
  RESULT="${RESULT:+$RESULT, }release $RELEASE"
}

last_checkpoint() { # prints the run's last published checkpoint
  if [[ $DRY_RUN == 1 ]]; then
    printf '%s' "$OUTPUT/checkpoints/LAST_STEP"
    return
  fi
  local path last=''
  for path in "$OUTPUT"/checkpoints/step_[0-9][0-9][0-9][0-9][0-9][0-9]; do
    if [[ -f $path/manifest.json ]]; then last=$path; fi
  done
  [[ -n $last ]] || fail 1 "$OUTPUT/checkpoints: holds no checkpoint; see the log above"
  printf '%s' "$last"
}

finish() {
  stop_steps
  if [[ $DRY_RUN != 1 ]]; then rm -rf "$LOGS/weights"; fi
  say "done: $RESULT"
}
