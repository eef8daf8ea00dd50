# What the job scripts share: settings checked, steps started, watched and stopped. Sourced by slurm/*.sh, which set
# REPO, RUN, DRY_RUN, CONTAINER, CONTAINER_IMAGE, CONTAINER_MOUNTS, VENV and TASKS_PER_NODE first.
# shellcheck shell=bash
#
# A step is one srun, built as the array STEP by on_head or on_every_gpu, then run by run_step (until it ends) or by
# start_sidecar (beside the others). With DRY_RUN=1 both print it instead. Left out: requeueing and restarting a sidecar.

declare -a STEP MOUNTS=()
declare -A SIDECARS=() LOG_OF=()
RUNNING=

say() {
  if [[ $DRY_RUN == 1 ]]; then printf '# %s\n' "$*"; else printf '[%(%F %T)T] %s\n' -1 "$*"; fi
}

fail() { # CODE MESSAGE...: ends the job; the message comes after all that the steps say when they are stopped
  local code=$1
  shift
  stop_steps
  printf '%s: %s\n' "${SLURM_JOB_NAME:-${0##*/}}" "$*" >&2
  exit "$code"
}

usage() { # the comment at the top of the script, up to the first blank line
  sed -n '/^$/q; /^#[^!S]/s/^# //p; s/^#$//p' "$0"
}

# --- settings ---------------------------------------------------------------------------------------------------------

need_files() { # NAME FILES WHAT: comma-separated files
  local file files
  [[ -n $2 ]] || fail 2 "$1 is not set; set it to $3"
  IFS=, read -ra files <<<"$2"
  for file in "${files[@]}"; do
    [[ -f $file ]] || fail 2 "$1: $file: no such file; expected $3"
  done
}

need_hf_model() { # NAME PATH
  [[ -n $2 ]] || fail 2 "$1 is not set; set it to a Hugging Face model folder (config.json, tokenizer, safetensors)"
  [[ -f $2/config.json ]] || fail 2 "$1=$2: no config.json there; expected a Hugging Face model folder"
}

need_runtime() { # sets PYTHON
  case $CONTAINER in
  pyxis)
    [[ -n $CONTAINER_IMAGE ]] ||
      fail 2 "CONTAINER_IMAGE is not set; set it to the image built from ./Dockerfile (a .sqsh file or a registry" \
        "reference), or set CONTAINER=none to run with VENV or the python3 on PATH"
    [[ $CONTAINER_IMAGE != /* || -e $CONTAINER_IMAGE ]] || fail 2 "CONTAINER_IMAGE=$CONTAINER_IMAGE: no such file"
    PYTHON=python3
    ;;
  none)
    PYTHON=${VENV:+$VENV/bin/}python3
    command -v "$PYTHON" >/dev/null ||
      fail 2 "$PYTHON: not found; set VENV to a virtual environment with this project, on a file system that all nodes see"
    ;;
  *) fail 2 "CONTAINER=$CONTAINER: expected pyxis or none" ;;
  esac
}

mount_folder() { # PATH: the folder is to be seen in the container, under its own name
  local known
  [[ $CONTAINER == none || $1 != *[,:]* ]] || fail 2 "$1: pyxis mounts no path with a comma or colon; rename it"
  for known in "${MOUNTS[@]}"; do
    if [[ $1 == "$known" || $1 == "$known"/* ]]; then return; fi
  done
  MOUNTS+=("$1")
}

mount_folders_of() { # comma-separated files
  local file files
  IFS=, read -ra files <<<"$1"
  for file in "${files[@]}"; do mount_folder "$(dirname "$(realpath "$file")")"; done
}

hydra_path() { # PATH: as a Hydra value; quoted only where its grammar asks for it
  if [[ $1 =~ ^[A-Za-z0-9_./-]+$ ]]; then printf '%s' "$1"; else printf "'%s'" "${1//\'/\\\'}"; fi
}

hydra_files() { # comma-separated files: as a Hydra list of absolute paths
  local file list='' files
  IFS=, read -ra files <<<"$1"
  for file in "${files[@]}"; do list+=,$(hydra_path "$(realpath "$file")"); done
  printf '[%s]' "${list#,}"
}

# --- the job ----------------------------------------------------------------------------------------------------------

begin_job() { # NODES: sets HEAD, LOGS and what every rank finds in its environment
  if [[ $DRY_RUN == 1 ]]; then
    NODES=${SLURM_JOB_NUM_NODES:-$1} HEAD=HEAD_NODE LOGS=$RUN/logs/JOB_ID
    CPUS_PER_TASK=${CPUS_PER_TASK:-CPUS_PER_TASK}
    say "names in capitals are known when the job runs"
    set_default MASTER_ADDR "$HEAD" MASTER_PORT MASTER_PORT PYTHONUNBUFFERED 1
    return
  fi
  [[ -n ${SLURM_JOB_ID:-} ]] || fail 2 "not in a Slurm job; submit it with sbatch, or set DRY_RUN=1 to see its commands"
  NODES=$SLURM_JOB_NUM_NODES
  local hosts
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
  HEAD=${hosts%%$'\n'*}
  LOGS=$RUN/logs/$SLURM_JOB_ID
  LOGS+=${SLURM_RESTART_COUNT:+.$SLURM_RESTART_COUNT}
  mkdir -p "$LOGS" || fail 2 "cannot write to RUN=$RUN; set RUN to a folder on a file system that all nodes see"
  # Without it srun gives a task one core.
  CPUS_PER_TASK=${CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE > TASKS_PER_NODE ? SLURM_CPUS_ON_NODE / TASKS_PER_NODE : 1))}
  # Below the range that the kernel hands out, and another one for every job on a shared node.
  export MASTER_ADDR=$HEAD MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
  set_default PYTHONUNBUFFERED 1
  trap stop_steps EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  # bash would die of it. Training goes on: what it saved last is what the next submission goes on from.
  trap 'say "the time limit is near; submit again with RUN=$RUN to go on from the last checkpoint"' USR1
}

set_default() { # NAME VALUE...: exports variables that the submitter has not set
  while (($#)); do
    export "$1=${!1:-$2}"
    if [[ $DRY_RUN == 1 ]]; then show export "$1=${!1}"; fi
    shift 2
  done
}

step() { # SRUN_OPTION... -- COMMAND...: fills STEP
  # --export: sbatch --export=NONE would keep MASTER_ADDR and the settings below from the ranks.
  # --kill-on-bad-exit: otherwise the ranks that are left wait for a dead one until the collectives time out.
  STEP=(srun --overlap --export=ALL --kill-on-bad-exit=1)
  while [[ $1 != -- ]]; do
    STEP+=("$1")
    shift
  done
  shift
  if [[ $CONTAINER == pyxis ]]; then
    local folder mounts=''
    for folder in "${MOUNTS[@]}"; do mounts+=,$folder:$folder; done
    mounts+=${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
    STEP+=("--container-image=$CONTAINER_IMAGE" "--container-mounts=${mounts#,}" "--container-workdir=$REPO")
    STEP+=(--no-container-mount-home)
  else
    STEP+=("--chdir=$REPO")
  fi
  STEP+=("$@")
}

on_head() { # CPUS COMMAND...: one task on the first node, without GPUs
  # Not --gres=none: beside the SLURM_GPUS_PER_NODE that sbatch sets, srun refuses it.
  step --nodes=1 --ntasks=1 "--nodelist=$HEAD" "--cpus-per-task=$1" --gpus-per-node=0 -- "${@:2}"
}

on_every_gpu() { # COMMAND...: one task a GPU; every task sees all GPUs of its node and takes the one of its local rank
  step "--nodes=$NODES" "--ntasks=$((NODES * TASKS_PER_NODE))" "--ntasks-per-node=$TASKS_PER_NODE" \
    "--cpus-per-task=$CPUS_PER_TASK" --label -- "$@"
}

show() { # COMMAND...: as one line that a shell would read back
  local word line=''
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+=" $word"
    elif [[ $word != *[\"\$\`\\!]* ]]; then
      line+=" \"$word\""
    else
      line+=" $(printf '%q' "$word")"
    fi
  done
  printf '%s\n' "${line# }"
}

run_step() { # NAME: runs STEP to its end; its failure, or a sidecar's end, is the job's
  say "$1"
  show "${STEP[@]}"
  if [[ $DRY_RUN == 1 ]]; then return; fi
  local code=0
  "${STEP[@]}" 2> >(exec tee "$LOGS/$1.err" >&2) &
  RUNNING=$!
  while kill -0 "$RUNNING" 2>/dev/null; do
    watch_sidecars
    sleep 1
  done
  wait "$RUNNING" || code=$?
  RUNNING=
  if ((code != 0)); then code=$(first_exit_code "$LOGS/$1.err" "$code"); fi
  ((code == 0)) || fail "$code" "$1 failed with exit code $code; the reason is above. The run is in $RUN"
}

first_exit_code() { # FILE CODE: prints the code of the task that failed first, by srun's messages in FILE, else CODE
  # srun's own code is the highest of all tasks: that of the ranks which it killed because another one had failed.
  local line='' tries
  for ((tries = 0; tries < 10; tries++)); do
    if line=$(grep -m1 -E '^srun: error: .* tasks? [0-9,-]+: Exited with exit code [0-9]+$' "$1"); then break; fi
    sleep 0.1
  done
  if [[ -n $line ]]; then printf '%s' "${line##* }"; else printf '%s' "$2"; fi
}

start_sidecar() { # NAME LOG: runs STEP beside the steps that follow
  say "$1"
  printf '%s >%s 2>&1 &\n' "$(show "${STEP[@]}")" "$(show "$2")"
  if [[ $DRY_RUN == 1 ]]; then return; fi
  "${STEP[@]}" >"$2" 2>&1 &
  SIDECARS[$!]=$1
  LOG_OF[$!]=$2
}

watch_sidecars() { # ends the job when one has stopped
  local pid code=0
  for pid in "${!SIDECARS[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then continue; fi
    wait "$pid" || code=$?
    tail -n 20 "${LOG_OF[$pid]}" >&2 2>/dev/null || true
    local name=${SIDECARS[$pid]}
    unset "SIDECARS[$pid]"
    fail "$((code ? code : 1))" "the $name stopped with exit code $code; its log is ${LOG_OF[$pid]}"
  done
}

stop_steps() { # ends what this script started, by process id
  local pids=("${!SIDECARS[@]}" ${RUNNING:+"$RUNNING"}) pid deadline=$((SECONDS + 30))
  # srun answers TERM by killing its step; what is left of it after the deadline is Slurm's to end with the job.
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.2; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  SIDECARS=() RUNNING=
}

# --- the reward server ------------------------------------------------------------------------------------------------

answers_ready() { # HOST PORT: whether GET /readyz says 200; needs no tool on the node but bash
  (
    exec 3<>"/dev/tcp/$1/$2" &&
      printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 &&
      read -r -t 5 status <&3 && [[ $status == *' 200 '* ]]
  ) 2>/dev/null
}

start_reward_server() { # WORKERS SECONDS: sets REWARD_URL once it is ready
  local workers=$1 seconds=$2 deadline address='' file=$LOGS/reward_server.address
  # Rank 0 alone asks for scores, and it is on the first node: nobody outside of it needs to reach the server.
  on_head "$workers" "$PYTHON" -m reward_server --host 127.0.0.1 --port 0 --workers "$workers" --port-file "$file"
  start_sidecar "reward server" "$LOGS/reward_server.log"
  if [[ $DRY_RUN == 1 ]]; then
    REWARD_URL=http://127.0.0.1:REWARD_PORT
    return
  fi
  deadline=$((SECONDS + seconds))
  until [[ -s $file ]] && address=$(<"$file") && answers_ready "${address%:*}" "${address##*:}"; do
    watch_sidecars
    ((SECONDS < deadline)) ||
      fail 1 "the reward server was not ready after ${seconds} s (READY_DEADLINE); its log is $LOGS/reward_server.log"
    sleep 0.5
  done
  REWARD_URL=http://$address
  say "reward server ready: $REWARD_URL"
}

# --- results ----------------------------------------------------------------------------------------------------------

last_checkpoint() { # prints the run's last published checkpoint
  if [[ $DRY_RUN == 1 ]]; then
    printf '%s' "$RUN/checkpoints/LAST_STEP"
    return
  fi
  local path last=''
  for path in "$RUN"/checkpoints/step_[0-9][0-9][0-9][0-9][0-9][0-9]; do
    if [[ -f $path/manifest.json ]]; then last=$path; fi
  done
  [[ -n $last ]] || fail 1 "$RUN/checkpoints: holds no checkpoint although training ended well; see the log above"
  printf '%s' "$last"
}
