#!/usr/bin/env bash
# Everything that a machine with one GPU can tell of this checkout, in at most eight minutes, for a visit that may not
# come again:
#
#   bash benchmarks/gpu_visit.sh RESULTS            PYTHON=python3 unless set
#   bash benchmarks/gpu_visit.sh RESULTS --dry-run  the same in small on a CPU; the time is not held to
#
# RESULTS gets, as it goes: visit.txt (what each part said last and took), canary.log, pytest.log, junit.xml, gpu.json,
# gpu.log, traces.tar.gz (profiles and logs). A part that fails or runs out of time does not keep the next from running;
# the exit code is the number of those that did.
set -uo pipefail

if (($# < 1)); then
  echo "usage: benchmarks/gpu_visit.sh RESULTS [--dry-run]" >&2
  exit 2
fi
mkdir -p "$1"
results=$(cd "$1" && pwd)
dry=${2:-}
repository=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
cd "$repository" || exit 2
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 NVTE_FRAMEWORK=pytorch
export NVTE_FP8_BLOCK_SCALING_FP32_SCALES=1 CUDA_DEVICE_MAX_CONNECTIONS=1 HF_HUB_OFFLINE=1
if [[ $dry == --dry-run ]]; then
  export MEDATRON_DEVICE=cpu MEDATRON_GPU_TESTS_ON_CPU=1 OMP_NUM_THREADS=1
fi

# part NAME SECONDS COMMAND...: runs it, keeps its output, and says in a line how it ended.
part() {
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  # Interrupted, pytest still writes what it knows.
  timeout --signal=INT --kill-after=10 "$limit" "$@" >"$results/$name.log" 2>&1
  code=$?
  if ((code)); then failed=$((failed + 1)); fi
  printf '%s: exit code %d after %d s: %s\n' "$name" "$code" $((SECONDS - began)) \
    "$(tail -n 1 "$results/$name.log" | cut -c 1-300)" | tee -a "$results/visit.txt"
}

# limit SECONDS: so many, and without bound in a dry run, whose machine may be slow.
limit() { if [[ $dry ]]; then echo 900; else echo "$1"; fi; }

{
  date '+%Y-%m-%d %H:%M'
  if [[ -e REVISION ]]; then echo "$(<REVISION)"; else git rev-parse HEAD; fi
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU"
} >"$results/visit.txt"

part canary "$(limit 60)" "$python" -m recipes.canary "output=$work/canary" model.path=unread
# The figures first: of the tests' verdicts each is one bit.
part gpu "$(limit 240)" "$python" benchmarks/gpu.py --output "$work/gpu" --seconds "$(limit 225)" ${dry:+--dry-run}
cp "$work/gpu/gpu.json" "$results/" 2>/dev/null
(cd "$work/gpu" && tar -czf "$results/traces.tar.gz" worker.log profile-*.txt) 2>/dev/null
part pytest "$(limit $((460 - SECONDS)))" "$python" -m pytest tests/gpu -q -o junit_logging=all --junitxml="$results/junit.xml" \
  --basetemp="$work/pytest" -p no:cacheprovider
{
  grep -v '^{' "$results/gpu.log"
  grep -E '^(FAILED|ERROR)' "$results/pytest.log"
} >>"$results/visit.txt"
cat "$results/visit.txt"
exit "$failed"
