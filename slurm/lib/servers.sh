# The servers that run beside training and evaluation: scores, and vLLM's rollouts. Sourced by job.sh.
# shellcheck shell=bash

answers() { # HOST PORT PATH: whether GET PATH says 200; needs no tool on the node but bash
  (
    exec 3<>"/dev/tcp/$1/$2" &&
      printf 'GET %s HTTP/1.0\r\n\r\n' "$3" >&3 &&
      read -r -t 5 status <&3 && [[ $status == *' 200 '* ]]
  ) 2>/dev/null
}

make_token() { # NAME: a random one, unless it is set; a server that other nodes can reach wants to know who asks
  if [[ $DRY_RUN == 1 || -n ${!1:-} ]]; then return; fi
  export "$1=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
}

# --- the reward server ------------------------------------------------------------------------------------------------

reward_server_step() { # PORT: fills STEP
  local server=("$PYTHON" -m reward_server --workers "$REWARD_WORKERS" --port "$1"
    --port-file "$LOGS/reward_server.address")
  if [[ $REWARD_NODES == 1 ]]; then
    step --het-group=1 --nodes=1 --ntasks=1 "--cpus-per-task=$REWARD_WORKERS" -- "${server[@]}" --host ::
  else
    # Rank 0 alone asks for scores, and it is on the first node: nobody outside of it needs to reach the server.
    on_head "$REWARD_WORKERS" "${server[@]}" --host 127.0.0.1
  fi
}

start_reward_server() { # sets REWARD_URL once it is ready; it is restarted at the same address when it dies
  local deadline address='' host=127.0.0.1 port file=$LOGS/reward_server.address
  if [[ $REWARD_NODES == 1 ]]; then
    host=REWARD_NODE
    if [[ $DRY_RUN != 1 ]]; then
      [[ -n ${SLURM_JOB_NODELIST_HET_GROUP_1:-} ]] ||
        fail 2 "REWARD_NODES=1, but the job has no second component; submit with '... : --nodes=1 --exclusive'"
      host=$(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_1" | head -n 1)
      make_token MEDATRON_REWARD_TOKEN
    fi
  fi
  rm -f "$file"
  reward_server_step 0
  start_sidecar "reward server" "$LOGS/reward_server.log"
  REWARD_URL=http://$host:REWARD_PORT
  if [[ $DRY_RUN == 1 ]]; then return; fi
  deadline=$((SECONDS + READY_DEADLINE))
  until [[ -s $file ]] && address=$(<"$file") && answers "$host" "${address##*:}" /readyz; do
    wait_for_sidecar "reward server" "$deadline"
  done
  port=${address##*:}
  REWARD_URL=http://$host:$port
  # From here on it is a matter of minutes without scores, for which the trainer waits (reward.total_timeout_s).
  reward_server_step "$port"
  keep_sidecar_step "reward server"
  say "reward server ready: $REWARD_URL"
}

# --- rollouts ---------------------------------------------------------------------------------------------------------

need_rollout() { # sets ROLLOUT_PYTHON and ROLLOUT_SETTINGS, what every other program is told of the servers
  need_one_of ROLLOUT "$ROLLOUT" vllm embedded
  need_number ROLLOUT_NODES 0 1000
  need_number ROLLOUT_TENSOR 1 1024
  need_number ROLLOUT_PORT 1024 65000
  if [[ $ROLLOUT == embedded ]]; then
    ((ROLLOUT_NODES == 0)) || fail 2 "ROLLOUT_NODES=$ROLLOUT_NODES: ROLLOUT=embedded has no servers; set ROLLOUT=vllm"
    return
  fi
  ((TASKS_PER_NODE % ROLLOUT_TENSOR == 0)) ||
    fail 2 "ROLLOUT_TENSOR=$ROLLOUT_TENSOR does not divide the $TASKS_PER_NODE GPUs of a node (TASKS_PER_NODE)"
  REPLICAS_PER_NODE=$((TASKS_PER_NODE / ROLLOUT_TENSOR))
  need_rollout_python
  ROLLOUT_SETTINGS=(rollout=vllm "rollout.tensor=$ROLLOUT_TENSOR")
  if ((ROLLOUT_NODES == 0)); then ROLLOUT_SETTINGS+=(rollout.vllm.sleep=true rollout.vllm.memory_share=0.4); fi
}

need_rollout_python() {
  # Made whole as other paths are, but not followed: what a virtual environment's python links to knows nothing of it.
  if [[ $CONTAINER == none && $MEDATRON_VLLM_PYTHON == */* ]]; then
    MEDATRON_VLLM_PYTHON=$(realpath -ms -- "$MEDATRON_VLLM_PYTHON")
  fi
  ROLLOUT_PYTHON=${MEDATRON_VLLM_PYTHON:-$PYTHON}
  if [[ $CONTAINER == none ]]; then
    [[ -z $ROLLOUT_IMAGE ]] || fail 2 "ROLLOUT_IMAGE=$ROLLOUT_IMAGE: CONTAINER=none has no images; set" \
      "MEDATRON_VLLM_PYTHON to a Python with vLLM instead"
    command -v "$ROLLOUT_PYTHON" >/dev/null ||
      fail 2 "MEDATRON_VLLM_PYTHON=$ROLLOUT_PYTHON: not found; set it to a Python with vLLM that all nodes see"
  elif [[ -n $ROLLOUT_IMAGE ]]; then
    ROLLOUT_PYTHON=${MEDATRON_VLLM_PYTHON:-python3}
    need_image ROLLOUT_IMAGE
  fi
}

on_rollout_nodes() { # TASKS_PER_NODE CPUS COMMAND...: where the servers are, in their image
  local CONTAINER_IMAGE=${ROLLOUT_IMAGE:-$CONTAINER_IMAGE} count=$NODES first=0
  if ((ROLLOUT_NODES > 0)); then count=$ROLLOUT_NODES first=$NODES; fi
  step "--relative=$first" "--nodes=$count" "--ntasks=$((count * $1))" "--ntasks-per-node=$1" "--cpus-per-task=$2" \
    --label -- "${@:3}"
}

look_for_vllm() {
  if [[ $ROLLOUT == embedded ]]; then return; fi
  on_rollout_nodes 1 1 "$ROLLOUT_PYTHON" -c 'import vllm; print("vLLM", vllm.__version__)'
  run_step "look for vLLM"
}

start_rollout_servers() { # MODEL_PATH: sets ROLLOUT_SETTINGS' addresses once all are ready
  if [[ $ROLLOUT == embedded ]]; then return; fi
  local file=$LOGS/rollout_servers.arguments host=0.0.0.0 folder=${MODEL:-$1/hf} arguments=(ROLLOUT_ARGUMENTS)
  local cpus=CPUS_PER_TASK url urls deadline
  if ((ROLLOUT_NODES > 0)); then
    # Where weights go by file. A life that was killed has left its own.
    if [[ $DRY_RUN != 1 ]]; then
      rm -rf "$RUN/logs/$SLURM_JOB_ID"*/weights
      mkdir "$LOGS/weights"
    fi
    ROLLOUT_SETTINGS+=("rollout.vllm.folder=$(as_text "$LOGS/weights")")
  fi
  settings "$1"
  on_head 1 "$PYTHON" -m recipes.sampling.vllm.arguments "$file" "${SETTINGS[@]}"
  run_step "rollout settings"
  if [[ $DRY_RUN != 1 ]]; then
    mapfile -t arguments <"$file"
    cpus=$((CPUS_PER_TASK * ROLLOUT_TENSOR))
  fi
  # The trainer is on the same node, and nobody outside of it needs to reach them.
  if ((ROLLOUT_NODES == 0 && NODES == 1)); then host=127.0.0.1; fi
  make_token MEDATRON_ROLLOUT_TOKEN
  on_rollout_nodes "$REPLICAS_PER_NODE" "$cpus" bash "$REPO/slurm/lib/replica.sh" "$ROLLOUT_TENSOR" "$ROLLOUT_PORT" \
    "$SIDECAR_RESTARTS" "$ROLLOUT_PYTHON" -m recipes.sampling.vllm.serve "$folder" --host "$host" "${arguments[@]}"
  # Each replica is started again by itself, so that the others go on; when that has not helped, the job ends.
  start_sidecar "rollout servers" "$LOGS/rollout_servers.log" 0
  mapfile -t urls < <(rollout_urls)
  ROLLOUT_SETTINGS+=("rollout.vllm.urls=[$(IFS=, && echo "${urls[*]}")]")
  if [[ $DRY_RUN == 1 ]]; then return; fi
  deadline=$((SECONDS + READY_DEADLINE))
  for url in "${urls[@]#http://}"; do
    until answers "${url%:*}" "${url#*:}" /health; do wait_for_sidecar "rollout servers" "$deadline"; done
  done
  say "rollout servers ready: ${urls[*]}"
}

rollout_urls() { # prints the address of each replica, a line each
  local host i port=$ROLLOUT_PORT
  while read -r host; do
    for ((i = 0; i < REPLICAS_PER_NODE; i++)); do
      if [[ $DRY_RUN != 1 ]]; then port=$((ROLLOUT_PORT + i)); fi
      printf 'http://%s:%s\n' "$host" "$port"
    done
  done < <(rollout_hosts)
}

rollout_hosts() { # prints the nodes of the servers as the trainer reaches them
  local i
  if ((ROLLOUT_NODES == 0 && NODES == 1)); then
    echo 127.0.0.1
  elif [[ $DRY_RUN == 1 ]]; then
    for ((i = 0; i < (ROLLOUT_NODES ? ROLLOUT_NODES : NODES); i++)); do echo "ROLLOUT_NODE_$i"; done
  elif ((ROLLOUT_NODES > 0)); then
    scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n "$ROLLOUT_NODES"
  else
    scontrol show hostnames "$SLURM_JOB_NODELIST"
  fi
}
