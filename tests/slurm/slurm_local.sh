#!/usr/bin/env bash
# A real Slurm cluster of several nodes on one Linux machine, for tests; needs root.
#
#   slurm_local.sh check              says why a cluster cannot run here (exit 1), or nothing (exit 0)
#   slurm_local.sh up [NODES]         starts munged, slurmctld and NODES slurmd (2), and waits until all are idle
#   slurm_local.sh down               cancels jobs and undoes what `up` did; logs stay
#   slurm_local.sh kill-node NAME     crashes a node: SIGKILL for its slurmd and all that runs on it
#   slurm_local.sh start-node NAME    brings it back
#
# Clients find the cluster with SLURM_CONF=$SLURM_LOCAL_DIR/etc/slurm.conf.
#
# A node is a slurmd in a network namespace of its own on a private bridge, with its own host name and its own view of
# /etc/hosts: ports, loopback and host names behave as on separate machines. Every node claims 96 cores, 1.9 TB and
# 8 x H100, so that unedited scripts are accepted. Shared between nodes: process ids, /tmp and /dev/shm. Outside of
# SLURM_LOCAL_DIR only the bridge and the namespaces exist. Left out: accounting, containers, GPUs that work.
#
# Environment: SLURM_LOCAL_DIR (/tmp/medatron-slurm), SLURM_LOCAL_NET (10.177.0), SLURM_LOCAL_PORT (16917).
set -euo pipefail

DIR=${SLURM_LOCAL_DIR:-/tmp/medatron-slurm}
NET=${SLURM_LOCAL_NET:-10.177.0}
PORT=${SLURM_LOCAL_PORT:-16917}
CPUS=96 GPUS=8 MEMORY_MB=1900000 READY_S=60

ETC=$DIR/etc RUN=$DIR/run LOG=$DIR/log STATE=$DIR/state SPOOL=$DIR/spool
BRIDGE=mdslurm0 NAMESPACE=mdslurm-
export SLURM_CONF=$ETC/slurm.conf

die() {
  printf 'slurm_local.sh: %s\n' "$*" >&2
  exit 1
}

# --- processes: a pid file holds "pid starttime", so that a recycled pid is never signalled ---

started_at() { # PID: start time of a live process; fails for a dead or zombie one
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  local -a fields
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] ]] || return 1
  printf '%s' "${fields[19]}"
}

alive() { # NAME: prints the pid of a daemon of ours
  local pid since
  { read -r pid since <"$RUN/$1.pid"; } 2>/dev/null || return 1
  [[ $(started_at "$pid") == "$since" ]] || return 1
  printf '%s' "$pid"
}

start_daemon() { # NAME COMMAND...: COMMAND must only exec, so that the pid stays
  local name=$1
  shift
  setsid "$@" </dev/null >>"$LOG/$name.out" 2>&1 9>&- &
  printf '%s %s\n' $! "$(started_at $!)" >"$RUN/$name.pid"
}

stop_daemon() { # NAME [SIGNAL]
  local pid end=$((SECONDS + 8))
  if pid=$(alive "$1"); then
    kill "-${2:-TERM}" "$pid" 2>/dev/null || true
    while alive "$1" >/dev/null; do
      if ((SECONDS >= end)); then kill -KILL "$pid" 2>/dev/null || true; fi
      sleep 0.1
    done
  fi
  rm -f "$RUN/$1.pid"
}

kill_strays() { # NODE: what runs in its namespace besides the daemon
  local pid
  for pid in $(ip netns pids "$NAMESPACE$1" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
}

nodes() {
  local name
  for name in "$RUN"/slurmd-*.pid; do
    [[ -e $name ]] || continue
    name=${name##*/slurmd-}
    printf '%s\n' "${name%.pid}"
  done
}

# --- configuration ---

freezer() { [[ -w /sys/fs/cgroup/freezer/cgroup.procs ]]; }

write_configuration() { # NODES
  local i track=linuxproc
  # With cgroups Slurm also ends daemonised strays of a job, as clusters do.
  if freezer; then track=cgroup; fi
  : >"$ETC/plugstack.conf"
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=yes\nCgroupMountpoint=/sys/fs/cgroup\n' >"$ETC/cgroup.conf"
  printf 'AutoDetect=off\nNodeName=node[0-%d] Name=gpu Type=h100 File=%s/dev/nvidia[0-%d]\n' \
    $(($1 - 1)) "$DIR" $((GPUS - 1)) >"$ETC/gres.conf"
  # Slurm sets CUDA_VISIBLE_DEVICES only for device nodes; plain files it ignores.
  for ((i = 0; i < GPUS; i++)); do
    if [[ ! -c $DIR/dev/nvidia$i ]]; then mknod -m 666 "$DIR/dev/nvidia$i" c 195 "$i"; fi
  done
  printf '127.0.0.1 localhost\n' >"$ETC/hosts"
  for ((i = 0; i < $1; i++)); do printf '%s.%d node%d\n' "$NET" $((10 + i)) "$i" >>"$ETC/hosts"; done
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$(hostname -s)($NET.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$RUN/munge.socket,cred_expire=5
SlurmctldPort=$PORT
SlurmctldPidFile=$RUN/slurmctld.self
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdPidFile=$RUN/slurmd-%n.self
SlurmdLogFile=$LOG/slurmd-%n.log
StateSaveLocation=$STATE
SlurmdSpoolDir=$SPOOL/%n
TmpFS=$DIR/nodes/%n
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/$track
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PlugStackConfig=$ETC/plugstack.conf
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=$((MEMORY_MB / CPUS))
SlurmdParameters=config_overrides
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=2
KillOnBadExit=0
KillWait=5
InactiveLimit=0
MinJobAge=86400
SlurmdTimeout=20
MessageTimeout=15
PropagateResourceLimits=NONE
CONF
  for ((i = 0; i < $1; i++)); do
    printf 'NodeName=node%d NodeAddr=%s.%d Port=%d CPUs=%d Boards=1 SocketsPerBoard=2 CoresPerSocket=%d ' \
      "$i" "$NET" $((10 + i)) $((PORT + 1)) "$CPUS" $((CPUS / 2))
    printf 'ThreadsPerCore=1 RealMemory=%d Feature=h100 Gres=gpu:h100:%d State=UNKNOWN\n' "$MEMORY_MB" "$GPUS"
  done >>"$SLURM_CONF"
  printf 'PartitionName=gpu Nodes=node[0-%d] Default=YES MaxTime=INFINITE DefaultTime=60 State=UP\n' \
    $(($1 - 1)) >>"$SLURM_CONF"
}

# --- network ---

network_up() { # NODES
  local i name
  ip link add "$BRIDGE" type bridge
  ip addr add "$NET.1/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  for ((i = 0; i < $1; i++)); do
    name=${NAMESPACE}node$i
    ip netns add "$name"
    ip link add "mdsl$i" type veth peer name eth0 netns "$name"
    ip link set "mdsl$i" master "$BRIDGE" up
    # No default route: a reverse lookup, as torch makes them, then fails at once and not after a DNS timeout.
    ip -n "$name" addr add "$NET.$((10 + i))/24" dev eth0
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
  done
}

network_down() {
  local path
  for path in /run/netns/"$NAMESPACE"*; do
    if [[ -e $path ]]; then ip netns del "${path##*/}"; fi
  done
  ip link del "$BRIDGE" 2>/dev/null || true
}

# --- commands ---

start_node() { # NAME
  mkdir -p "$SPOOL/$1" "$DIR/nodes/$1"
  # shellcheck disable=SC2016 # expanded by the inner shell
  start_daemon "slurmd-$1" nsenter "--net=/run/netns/$NAMESPACE$1" unshare --uts --mount --propagation slave \
    sh -c 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"' \
    "$1" "$ETC/hosts" "$(command -v slurmd)" -D -N "$1" -f "$SLURM_CONF"
}

wait_for() { # WHAT COMMAND...: until COMMAND succeeds
  local what=$1 end=$((SECONDS + READY_S))
  shift
  until "$@"; do
    if ((SECONDS >= end)); then
      grep -hiE 'error|fatal' "$LOG"/* >&2 || true
      die "$what not ready after $READY_S s; logs are in $LOG"
    fi
    sleep 0.2
  done
}

munge_answers() { munge -n -S "$RUN/munge.socket" 2>/dev/null | unmunge -S "$RUN/munge.socket" >/dev/null 2>&1; }

nodes_idle() { # COUNT
  (($(timeout 10 sinfo -h -N -o '%N %T' 2>/dev/null | grep -cE ' (idle|mixed|allocated|completing)$') >= $1))
}

node_idle() { timeout 10 sinfo -h -n "$1" -o %T 2>/dev/null | grep -qE '^(idle|mixed|allocated|completing)$'; }

check() {
  local tool probe=$NAMESPACE-probe
  [[ $(id -u) == 0 ]] || die "needs root"
  for tool in slurmctld slurmd sbatch munged ip nsenter unshare; do
    command -v "$tool" >/dev/null || die "$tool is not installed"
  done
  ip netns add "$probe" 2>/dev/null || die "this kernel or container allows no network namespaces"
  local code=0
  ip link add mdslprobe type veth peer name eth0 netns "$probe" 2>/dev/null || code=1
  ip link del mdslprobe 2>/dev/null || true
  ip netns del "$probe"
  ((code == 0)) || die "this kernel or container allows no veth devices"
}

up() { # NODES
  check
  down
  # munged wants its key, socket and log below folders that nobody else may write to.
  mkdir -p "$DIR" "$ETC" "$RUN" "$LOG" "$STATE" "$SPOOL" "$DIR/dev"
  chmod 755 "$DIR" "$ETC" "$RUN" "$LOG" "$SPOOL"
  chmod 700 "$STATE"
  find "$STATE" "$SPOOL" "$LOG" -mindepth 1 -delete
  write_configuration "$1"
  network_up "$1"
  (umask 077 && head -c 128 /dev/urandom >"$ETC/munge.key")
  start_daemon munged "$(command -v munged)" --foreground --force --num-threads=2 "--key-file=$ETC/munge.key" \
    "--socket=$RUN/munge.socket" "--pid-file=$RUN/munged.self" "--log-file=$LOG/munged.log" \
    "--seed-file=$STATE/munged.seed"
  wait_for munged munge_answers
  start_daemon slurmctld "$(command -v slurmctld)" -D -c -f "$SLURM_CONF"
  local i
  for ((i = 0; i < $1; i++)); do start_node "node$i"; done
  wait_for "the nodes" nodes_idle "$1"
}

down() {
  local name end=$((SECONDS + 15)) pid folder
  if alive slurmctld >/dev/null; then
    timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 10 scancel 2>/dev/null || true
    while ((SECONDS < end)) && [[ -n $(timeout 10 squeue -h 2>/dev/null) ]]; do sleep 0.2; done
  fi
  # All at once first: a slurmd whose slurmctld is gone takes its time.
  for name in $(nodes); do
    if pid=$(alive "slurmd-$name"); then kill -TERM "$pid" 2>/dev/null || true; fi
  done
  for name in $(nodes); do
    stop_daemon "slurmd-$name"
    kill_strays "$name"
  done
  stop_daemon slurmctld
  stop_daemon munged
  network_down
  for folder in /sys/fs/cgroup/*/slurm_node[0-9]*; do
    if [[ -d $folder ]]; then find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true; fi
  done
  rm -rf "$RUN" "$STATE" "$SPOOL" "${DIR:?}/dev" "$DIR/nodes"
}

known_node() { [[ -e /run/netns/$NAMESPACE$1 ]] || die "no such node: '$1'"; }

mkdir -p "$DIR"
exec 9>"$DIR/.lock"
flock -w 120 9 || die "another slurm_local.sh holds $DIR/.lock"
case ${1:-} in
check) check ;;
up) up "${2:-2}" ;;
down) down ;;
kill-node)
  known_node "${2:-}"
  stop_daemon "slurmd-$2" KILL
  kill_strays "$2"
  ;;
start-node)
  known_node "${2:-}"
  start_node "$2"
  wait_for "$2" node_idle "$2"
  ;;
*)
  sed -n '/^$/q; /^#[^!]/s/^# //p; s/^#$//p; /^set/q' "$0"
  exit 2
  ;;
esac
