#!/usr/bin/env bash
# One server of vLLM on this task's GPUs, which is started again when it has ended. Run by start_rollout_servers.
#
#   replica.sh TENSOR PORT RESTARTS COMMAND...
#
# The tasks of a node divide its GPUs by TENSOR and take PORT and those after it. Ends with the server's exit code once
# it has been started again RESTARTS times.
set -euo pipefail
# A process group for each server: what vLLM starts beside itself outlives a kill -9 of it, and keeps the GPUs' memory.
set -m

tensor=$1 port=$(($2 + SLURM_LOCALID)) restarts=$3
shift 3
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
if ((${#gpus[@]})); then
  CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:SLURM_LOCALID*tensor:tensor}")
  export CUDA_VISIBLE_DEVICES
fi
# The trainer's: vLLM's sleep mode refuses expandable segments, and its processes meet by themselves.
unset PYTORCH_CUDA_ALLOC_CONF MASTER_ADDR MASTER_PORT

for ((starts = 0; ; starts++)); do
  code=0
  "$@" --port "$port" &
  wait $! || code=$?
  kill -KILL -- "-$!" 2>/dev/null || true
  if ((starts == restarts)); then exit "$((code ? code : 1))"; fi
  printf '[%(%F %T)T] %s:%s stopped with exit code %s; starting it again (%s of %s)\n' -1 "$(hostname)" "$port" "$code" \
    "$((starts + 1))" "$restarts"
  # On the trainer's GPUs there may be no room for it until the step's training is over.
  sleep $((5 << starts))
done
