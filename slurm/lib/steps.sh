# What the job scripts' steps are made of: settings checked, sruns built, run, watched and stopped. Sourced by job.sh.
# shellcheck shell=bash
#
# A step is one srun, built as the array STEP by on_head or on_every_gpu, then run by run_step (until it ends) or by
# start_sidecar (beside the others; it is started again when it ends). With DRY_RUN=1 both print it instead.

declare -a STEP MOUNTS=()
NODES=0 RUNNING='' RUNNING_NAME='' STOPPING=''
# By name: process id, the step as text that the shell reads back, its log, how often it was and may be started again.
declare -A SIDECAR=() SIDECAR_STEP=() SIDECAR_LOG=() SIDECAR_STARTS=() SIDECAR_LIMIT=()
# How often a server may be started again in one life.
SIDECAR_RESTARTS=5
# Seconds that srun gets to end a step one of whose tasks has failed, and that nodes get to answer.
STUCK_S=40 ANSWER_S=30

say() {
  if [[ $DRY_RUN == 1 ]]; then printf '# %s\n' "$*"; else printf '[%(%F %T)T] %s\n' -1 "$*"; fi
}

fail() { # CODE MESSAGE...: ends the job; the message comes after all that the steps say when they are stopped
  local code=$1
  shift
  stop_steps
  printf '%s: %s\n' "$JOB_FILE" "$*" >&2
  exit "$code"
}

usage() { # the comments at the top of the script and of job.sh, up to their first blank lines
  local file
  for file in "$0" "$REPO/slurm/lib/job.sh"; do
    sed -n '/^$/q; /^#[^!S]/s/^# //p; s/^#$//p' "$file"
    printf '\n'
  done
}

# --- settings ---------------------------------------------------------------------------------------------------------

need_one_of() { # NAME VALUE ALLOWED...
  local name=$1 value=$2 allowed
  shift 2
  for allowed in "$@"; do
    if [[ $value == "$allowed" ]]; then return; fi
  done
  fail 2 "$name=$value: expected one of: $*"
}

need_number() { # NAME LOW HIGH: a whole number in these limits, or nothing
  local value=${!1:-}
  if [[ -z $value ]]; then return; fi
  if [[ $value =~ ^(0|[1-9][0-9]{0,8})$ ]] && ((value >= $2 && value <= $3)); then return; fi
  fail 2 "$1=$value: expected a whole number from $2 to $3"
}

need_one_line() { # NAME...: a line break or another control character is a mistake, not part of a name
  local name
  for name in "$@"; do
    [[ ${!name:-} != *[[:cntrl:]]* ]] ||
      fail 2 "$name=$(printf %q "${!name}"): expected one line without control characters"
  done
}

whole_path() { # NAME...: makes these paths whole, since steps run in a folder of their own; an empty one stays empty
  local name path
  need_one_line "$@"
  for name in "$@"; do
    path=${!name}
    # The shell itself puts the home folder in, but not in quotes.
    if [[ $path =~ ^~(/|$) ]]; then path=$HOME${path:1}; fi
    if [[ -n $path ]]; then printf -v "$name" %s "$(realpath -m -- "$path")"; fi
  done
}

need_one_file() { # NAME WHAT LABEL: makes its path whole and mounts its folder
  local file=${!1} quoted=$'^(\'([^\']+)\'|"([^"]+)")$'
  if [[ $file =~ $quoted ]]; then file=${BASH_REMATCH[2]}${BASH_REMATCH[3]}; fi
  whole_path file
  [[ -f $file ]] || fail 2 "$3: $file: no such file; expected $2"
  mount_folder "$(dirname "$file")"
  printf -v "$1" %s "$file"
}

need_files() { # NAME WHAT [LABEL]: files with commas between, in quotes where a name has one; made whole paths, mounted
  local label=${3:-$1} rest=${!1} element file made=() quoted=$'^[ \t\n]*(\'([^\']+)\'|"([^"]+)")[ \t\n]*(,|$)'
  [[ $rest == *[![:space:]]* ]] || fail 2 "$label is not set; set it to $2"
  rest+=,
  while [[ -n $rest ]]; do
    if [[ $rest =~ $quoted ]]; then
      element=${BASH_REMATCH[0]} file=${BASH_REMATCH[2]}${BASH_REMATCH[3]}
    else
      element=${rest%%,*},
      file=${element%,}
      file=${file#"${file%%[![:space:]]*}"} file=${file%"${file##*[![:space:]]}"}
    fi
    rest=${rest#"$element"}
    [[ -n $file ]] || fail 2 "$label=${!1}: names a file without a name; is a variable of the shell unset?"
    [[ $file != *[[:cntrl:]]* ]] || fail 2 "$label: $(printf %q "$file"): no such file; files stand between commas"
    whole_path file
    [[ -f $file ]] || fail 2 "$label: $file: no such file; expected $2"
    mount_folder "$(dirname "$file")"
    file=$(in_list "$file") || exit
    made+=("$file")
  done
  printf -v "$1" '%s,' "${made[@]}"
  printf -v "$1" %s "${!1%,}"
}

in_list() { # FILE: prints it as it stands between commas
  local file=$1
  if [[ $file == *,* ]]; then
    [[ $file != *[\'\"\\]* ]] || fail 2 "$file: a comma and a quote or backslash in one name; rename it"
    file="'$file'"
  fi
  printf '%s' "$file"
}

need_hf_model() { # NAME: makes its path whole
  [[ -n ${!1} ]] || fail 2 "$1 is not set; set it to a Hugging Face model folder (config.json, tokenizer, safetensors)"
  whole_path "$1"
  [[ -f ${!1}/config.json ]] || fail 2 "$1=${!1}: no config.json there; expected a Hugging Face model folder"
}

need_runtime() { # sets PYTHON
  PYTHON=python3
  whole_path VENV
  if [[ $CONTAINER == none ]]; then
    PYTHON=${VENV:+$VENV/bin/}python3
    command -v "$PYTHON" >/dev/null ||
      fail 2 "$PYTHON: not found; set VENV to a virtual environment with this project, on a file system that all nodes see"
    return
  fi
  [[ -n $CONTAINER_IMAGE ]] ||
    fail 2 "CONTAINER_IMAGE is not set; set it to the image built from ./Dockerfile (a .sqsh or .sif file or a registry" \
      "reference), or set CONTAINER=none to run with VENV or the python3 on PATH"
  need_image CONTAINER_IMAGE
}

need_image() { # NAME: makes the path of a file whole
  # What looks like a file, or is one, is no reference to a registry.
  if [[ ${!1} == @(*[[:cntrl:]]*|/*|./*|../*|\~/*|*.sqsh|*.sif) || -e ${!1} ]]; then
    whole_path "$1"
    [[ -e ${!1} ]] || fail 2 "$1=${!1}: no such file"
  fi
}

mount_folder() { # PATH: the folder is to be seen in the container, under its own name
  local known
  [[ $CONTAINER == none || $1 != *[,:]* ]] || fail 2 "$1: a container mounts no path with a comma or colon; rename it"
  for known in "${MOUNTS[@]}"; do
    if [[ $1 == "$known" || $1 == "$known"/* ]]; then return; fi
  done
  MOUNTS+=("$1")
}

as_text() { # PATH: as a setting whose text it is (recipes/runtime/overrides.py); unescaped, ${ begins another setting
  sed -E 's/(\\*)\$\{/\1\1\\${/g' <<<"$1"
}

split_settings() { # TEXT: fills WORDS; blanks and line ends stand between settings, in quotes and brackets they belong
  local rest=$1 word='' depth=0 quoted=$'^(\'([^\'\\]|\\.)*\'|"([^"\\]|\\.)*")'
  WORDS=()
  while [[ -n $rest ]]; do
    if [[ $word =~ =$ || ($depth -gt 0 && $word =~ [[{,:][[:space:]]*$) ]]; then
      if [[ $rest =~ $quoted ]]; then
        word+=${BASH_REMATCH[0]} rest=${rest:${#BASH_REMATCH[0]}}
        continue
      fi
      [[ $rest != [\'\"]* ]] || fail 2 "EXTRA: $word$rest: a quote is left open"
    fi
    case ${rest:0:1} in
    '[' | '{') if ((depth)) || [[ $word == *= ]]; then depth=$((depth + 1)); fi ;;
    ']' | '}') depth=$((depth > 0 ? depth - 1 : 0)) ;;
    [[:space:]])
      if ((depth == 0)); then
        WORDS+=(${word:+"$word"})
        word='' rest=${rest:1}
        continue
      fi
      ;;
    esac
    word+=${rest:0:1} rest=${rest:1}
  done
  ((depth == 0)) || fail 2 "EXTRA: $word: a bracket is left open"
  WORDS+=(${word:+"$word"})
}

# What srun says of a task that failed; of one that a signal killed it says "Killed" and the like.
TASK_FAILED='^srun: error: .* tasks? [0-9,-]+: '

# --- steps ------------------------------------------------------------------------------------------------------------

set_default() { # NAME VALUE...: exports variables that the submitter has not set
  while (($#)); do
    export "$1=${!1:-$2}"
    if [[ $DRY_RUN == 1 ]]; then show export "$1=${!1}"; fi
    shift 2
  done
}

step() { # SRUN_OPTION... -- COMMAND...: fills STEP
  # --export: sbatch --export=NONE would keep MASTER_ADDR and the settings of begin_job from the ranks.
  # --kill-on-bad-exit: otherwise the ranks that are left wait for a dead one until the collectives time out.
  STEP=(srun --overlap --export=ALL --kill-on-bad-exit=1)
  while [[ $1 != -- ]]; do
    STEP+=("$1")
    shift
  done
  shift
  local folder mounts=''
  for folder in "${MOUNTS[@]}"; do mounts+=,$folder:$folder; done
  mounts+=${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
  case $CONTAINER in
  pyxis)
    STEP+=("--container-image=$CONTAINER_IMAGE" "--container-mounts=${mounts#,}" "--container-workdir=$REPO")
    STEP+=(--no-container-mount-home)
    ;;
  apptainer)
    STEP+=("--chdir=$REPO" apptainer exec --nv --no-home --bind "${mounts#,}" --pwd "$REPO" "$CONTAINER_IMAGE")
    ;;
  none) STEP+=("--chdir=$REPO") ;;
  esac
  STEP+=("$@")
}

on_head() { # CPUS COMMAND...: one task on the first node, without GPUs
  # Not --gres=none: beside the SLURM_GPUS_PER_NODE that sbatch sets, srun refuses it.
  step --nodes=1 --ntasks=1 "--nodelist=$HEAD" "--cpus-per-task=$1" --gpus-per-node=0 -- "${@:2}"
}

on_every_gpu() { # COMMAND...: one task a GPU; every task sees all GPUs of its node and takes the one of its local rank
  step --relative=0 "--nodes=$NODES" "--ntasks=$((NODES * TASKS_PER_NODE))" "--ntasks-per-node=$TASKS_PER_NODE" \
    "--cpus-per-task=$CPUS_PER_TASK" --label -- "$@"
}

show() { # COMMAND...: as one line that a shell would read back
  local word line=''
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+=" $word"
    elif [[ $word != *[\"\$\`\\![:cntrl:]]* ]]; then
      line+=" \"$word\""
    else
      line+=" $(printf '%q' "$word")"
    fi
  done
  printf '%s\n' "${line# }"
}

run_step() { # NAME: runs STEP to its end; its failure is the job's
  say "$1"
  show "${STEP[@]}"
  if [[ $DRY_RUN == 1 ]]; then return; fi
  if [[ -n $STOPPING ]]; then go_on_later; fi
  local code=0 failed_at=''
  "${STEP[@]}" 2> >(exec tee "$LOGS/$1.err" >&2) &
  RUNNING=$! RUNNING_NAME=$1
  while kill -0 "$RUNNING" 2>/dev/null; do
    watch_sidecars
    # With a node gone, srun waits for the tasks there for good, although the others have failed.
    if [[ -z $failed_at ]]; then
      if grep -qsE "$TASK_FAILED" "$LOGS/$1.err"; then failed_at=$SECONDS; fi
    elif ((SECONDS - failed_at > STUCK_S)); then
      kill -KILL "$RUNNING" 2>/dev/null || true
    fi
    sleep 1
  done
  wait "$RUNNING" || code=$?
  RUNNING='' RUNNING_NAME=''
  if ((code == 0)); then return; fi
  code=$(first_exit_code "$LOGS/$1.err" "$code")
  # 75: saved and stopped as asked. A rank that does not listen yet dies of the signal, with 128 + SIGUSR1.
  if [[ -n $STOPPING && ($1 != training || $code == 75 || $code == 138) ]]; then go_on_later; fi
  if ! nodes_answer; then
    say "$1 failed with exit code $code, and not all nodes answer: one was lost"
    go_on_later
  fi
  fail "$code" "$1 failed with exit code $code; the reason is above. The run is in $RUN"
}

nodes_answer() { # whether every node of the job still starts a task; Slurm itself may take minutes to notice
  local nodes=$((NODES + ROLLOUT_NODES))
  timeout "$ANSWER_S" srun --overlap "--nodes=$nodes" "--ntasks=$nodes" --ntasks-per-node=1 --gpus-per-node=0 true \
    >/dev/null 2>&1
}

time_is_up() { # handler of USR1, which sbatch --signal sends ahead of the time limit
  STOPPING=1
  if [[ -z $RUNNING ]]; then
    say "the time limit is near"
  elif [[ $RUNNING_NAME == training ]]; then
    # srun hands it on to every rank; they save at the end of their step and stop with code 75.
    say "the time limit is near: asking the ranks to save and stop"
    kill -USR1 "$RUNNING" 2>/dev/null || true
  else
    say "the time limit is near: stopping the $RUNNING_NAME"
    kill -TERM "$RUNNING" 2>/dev/null || true
  fi
}

first_exit_code() { # FILE CODE: prints the code of the task that failed first, by srun's messages in FILE, else CODE
  # srun's own code is the highest of all tasks: that of the ranks which it ended because another one had failed.
  local line='' tries
  for ((tries = 0; tries < 10; tries++)); do
    if line=$(grep -m1 -E "$TASK_FAILED" "$1"); then break; fi
    sleep 0.1
  done
  case $line in
  *': Exited with exit code '*) printf '%s' "${line##* }" ;;
  *': Killed' | *': Out Of Memory') printf 137 ;;
  *': Segmentation fault'*) printf 139 ;;
  *': Aborted'*) printf 134 ;;
  *': Bus error'*) printf 135 ;;
  *': User defined signal 1') printf 138 ;;
  *) printf '%s' "$2" ;;
  esac
}

start_sidecar() { # NAME LOG [RESTARTS]: runs STEP beside the steps that follow
  say "$1"
  printf '%s >>%s 2>&1 &\n' "$(show "${STEP[@]}")" "$(show "$2")"
  if [[ $DRY_RUN == 1 ]]; then return; fi
  SIDECAR_LOG[$1]=$2 SIDECAR_STARTS[$1]=0 SIDECAR_LIMIT[$1]=${3:-$SIDECAR_RESTARTS}
  keep_sidecar_step "$1"
  run_sidecar "$1"
}

keep_sidecar_step() { # NAME: STEP is how it is started the next time
  printf -v "SIDECAR_STEP[$1]" '%q ' "${STEP[@]}"
}

run_sidecar() { # NAME
  # exec: the process id is srun's, which hands signals and the exit code on.
  eval "exec ${SIDECAR_STEP[$1]}" >>"${SIDECAR_LOG[$1]}" 2>&1 &
  SIDECAR[$1]=$!
}

watch_sidecars() { # starts those again that have ended; ends the job when that has not helped
  local name code said
  for name in "${!SIDECAR[@]}"; do
    if kill -0 "${SIDECAR[$name]}" 2>/dev/null; then continue; fi
    code=0
    wait "${SIDECAR[$name]}" || code=$?
    unset "SIDECAR[$name]"
    tail -n 20 "${SIDECAR_LOG[$name]}" >&2 2>/dev/null || true
    said="the $name stopped with exit code $code"
    if ((SIDECAR_STARTS[$name] == SIDECAR_LIMIT[$name])); then
      if ((SIDECAR_LIMIT[$name])); then said+=", the $((SIDECAR_LIMIT[$name] + 1))th time"; fi
      fail "$((code ? code : 1))" "$said; its log is ${SIDECAR_LOG[$name]}"
    fi
    SIDECAR_STARTS[$name]=$((SIDECAR_STARTS[$name] + 1))
    say "$said; starting it again (${SIDECAR_STARTS[$name]} of ${SIDECAR_LIMIT[$name]})"
    run_sidecar "$name"
  done
}

wait_for_sidecar() { # NAME DEADLINE: a moment, unless it is past the deadline, in seconds of this script, or stopping
  if [[ -n $STOPPING ]]; then go_on_later; fi
  watch_sidecars
  ((SECONDS < $2)) || fail 1 "not ready after $READY_DEADLINE s (READY_DEADLINE): the $1; the log is ${SIDECAR_LOG[$1]}"
  sleep 0.5
}

stop_steps() { # ends what this script started, by process id
  local pids=("${SIDECAR[@]}" ${RUNNING:+"$RUNNING"}) pid deadline=$((SECONDS + 30))
  # srun answers TERM by killing its step; what is left of it after the deadline is Slurm's to end with the job.
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.2; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  SIDECAR=() RUNNING=''
}
