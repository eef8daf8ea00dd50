# How a job goes on after its time limit or a lost node, and when it no longer may. Sourced by job.sh.
# shellcheck shell=bash
#
# A life is one start of the job script. RUN/logs/WORK.lives holds a line for each: job, restarts, and the run's last
# saved step when it began. The job of the last line owns that work as long as Slurm knows it. Slurm itself begins a new
# life after a lost node (sbatch --requeue); after a time limit this script asks for it.

last_step() { # prints the number of the run's last published checkpoint, 0 without one; of several trainings, their sum
  local folder path last sum=0
  for folder in "${OUTPUTS[@]}"; do
    last=0
    for path in "$folder"/checkpoints/step_[0-9][0-9][0-9][0-9][0-9][0-9]; do
      if [[ -f $path/manifest.json ]]; then last=$((10#${path##*_})); fi
    done
    sum=$((sum + last))
  done
  printf '%s' "$sum"
}

work() { # prints what no two jobs may do in one run at a time
  case ${GPU_JOB:-} in
  grpo | sft) printf training ;;
  evaluate) printf 'evaluation-%s' "$NAME" ;;
  *) printf '%s-%s' "${JOB_FILE%.sh}" "$SLURM_JOB_ID" ;;
  esac
}

begin_life() { # stops a job whose work another one is at, or that keeps starting without getting anywhere
  local step count lock owner lives
  lives=$RUN/logs/$(work).lives
  step=$(last_step)
  exec {lock}>>"$lives"
  # A file system without locks refuses: then the trainer's lock tells jobs apart that begin in the same moment.
  flock -w 30 "$lock" || true
  JOBS=$(squeue --noheader --format='%A %o %T on [%N] since %S') ||
    fail 1 "squeue does not answer, so it is not known whether another job is at RUN=$RUN; submit again"
  owner=$(tail -n 1 "$lives" | cut -d ' ' -f 1)
  if [[ -n $owner && $owner != "$SLURM_JOB_ID" ]] && owner=$(grep -m 1 "^$owner " <<<"$JOBS"); then
    fail 2 "RUN=$RUN: job ${owner%% *} is at its $(work) (${owner##*.sh }); wait for that job, cancel it, or set RUN" \
      "to another folder"
  fi
  # A new submission is a person's decision; only what goes on by itself is counted.
  if ((RESTARTS == 0)); then : >"$lives"; fi
  printf '%s %s %s\n' "$SLURM_JOB_ID" "$RESTARTS" "$step" >>"$lives"
  exec {lock}>&-
  if ((RESTARTS == 0)); then return; fi
  say "life $((RESTARTS + 1)) of this job: goes on after step $step"
  ((RESTARTS <= MAX_RESTARTS)) ||
    fail 1 "gone on $MAX_RESTARTS times (MAX_RESTARTS); submit again with RUN=$RUN to go on from step $step"
  count=$(tail -n $((MAX_IDLE_LIVES + 1)) "$lives" | grep -c " $step\$" || true)
  ((count <= MAX_IDLE_LIVES)) ||
    fail 1 "the last $MAX_IDLE_LIVES lives saved nothing after step $step; see the logs in $RUN/logs, then submit again" \
      "with a longer time limit or a smaller trainer.save_every"
}

number_steps_apart() { # keeps the signals that Slurm still owes the life before away from the steps of this one
  # Slurm counts each life's steps from 0. To a node that was lost it hands a step's end when the node is back, a minute
  # or more later, and so ends the step of that number in the next life.
  local i
  if ((${SLURM_RESTART_COUNT:-0} % 2 == 0)); then return; fi
  for ((i = 0; i < MAX_STEPS; i++)); do
    timeout "$ANSWER_S" srun --overlap --nodes=1 --ntasks=1 "--nodelist=$HEAD" --gpus-per-node=0 true >/dev/null 2>&1 &
  done
  wait
}

go_on_later() { # ends this life; the next one goes on from the last checkpoint
  local step
  step=$(last_step)
  stop_steps
  if [[ $REQUEUE == none ]]; then
    say "stopped after step $step; submit again with RUN=$RUN to go on from there"
    exit 75
  fi
  ((RESTARTS < MAX_RESTARTS)) ||
    fail 75 "stopped after step $step, having gone on $MAX_RESTARTS times (MAX_RESTARTS); submit again with RUN=$RUN"
  if [[ $REQUEUE == requeue ]] && scontrol requeue "$SLURM_JOB_ID"; then
    say "requeued; goes on after step $step"
    # Slurm ends this script now. Should it not, this is no success.
    sleep 120
    exit 75
  fi
  chain
  say "stopped after step $step; job $NEXT_JOB goes on from there"
  exit 75
}

chain() { # submits this job again, to start when this one has ended; sets NEXT_JOB
  local options=(--parsable "--dependency=afterany:$SLURM_JOB_ID" "--nodes=$((NODES + ROLLOUT_NODES))" "--job-name=$SLURM_JOB_NAME"
    "--partition=$SLURM_JOB_PARTITION" "--time=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%l)")
  local log
  log=$(scontrol show job "$SLURM_JOB_ID" --oneliner | sed -n 's/.* StdOut=\([^ ]*\).*/\1/p')
  if [[ -n $log ]]; then options+=("--output=$log"); fi
  if [[ -n ${SLURM_JOB_ACCOUNT:-} ]]; then options+=("--account=$SLURM_JOB_ACCOUNT"); fi
  CHAINED=$((${CHAINED:-0} + 1))
  export CHAINED REPO RUN
  NEXT_JOB=$(sbatch "${options[@]}" "$REPO/slurm/$JOB_FILE") ||
    fail 75 "cannot submit the job that should go on; submit again with RUN=$RUN"
}
