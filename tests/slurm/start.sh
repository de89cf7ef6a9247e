#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for the tests:   tests/slurm/start.sh FOLDER    (as root)
# FOLDER gets slurm.conf and everything that Slurm writes. Stop it with: tests/slurm/stop.sh FOLDER
# Needs Debian's packages slurm-wlm and munge. Both nodes share the cores of the machine.
set -euo pipefail
FOLDER="$(realpath -m "$1")"
mkdir -p "$FOLDER"
for command in slurmctld slurmd munged; do
  command -v "$command" > /dev/null || {
    echo "$command is missing; install it: apt install slurm-wlm munge" >&2
    exit 2
  }
done
[ "$(id -u)" = 0 ] || { echo "a Slurm for tests is started as root" >&2; exit 2; }

if [ ! -e /run/munge/munge.socket.2 ] || ! munge -n < /dev/null > /dev/null 2>&1; then
  mkdir -p /run/munge /etc/munge /var/log/munge /var/lib/munge
  [ -e /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=128 2> /dev/null
  chmod 400 /etc/munge/munge.key
  chown -R munge: /run/munge /etc/munge /var/log/munge /var/lib/munge
  chmod 755 /run/munge
  su -s /bin/sh munge -c munged
fi

HOST="$(hostname)"
CORES="$(nproc)"
MEMORY="$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)"
PORT="${SLURM_TEST_PORT:-$((17000 + $$ % 1000 * 3))}"  # another one may still be running
cat > "$FOLDER/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobRequeue=1
ReturnToService=2
KillWait=60
SchedulerParameters=sched_interval=1,sched_min_interval=100000
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool.%n
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.%n.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.%n.log
NodeName=n[1-2] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + 2))] CPUs=$CORES RealMemory=$MEMORY
PartitionName=test Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
export SLURM_CONF="$FOLDER/slurm.conf"
ln -sf "$SLURM_CONF" /etc/slurm/slurm.conf  # jobs have no variable SLURM_CONF
mkdir -p "$FOLDER/state" "$FOLDER/spool.n1" "$FOLDER/spool.n2"
slurmctld
slurmd -N n1
slurmd -N n2
for _ in $(seq 60); do
  if [ "$(sinfo -h -N -t idle -o %N 2> /dev/null | wc -l)" = 2 ]; then
    echo "export SLURM_CONF=$SLURM_CONF"
    exit 0
  fi
  sleep .5
done
echo "the nodes did not become idle; read $FOLDER/slurmctld.log" >&2
exit 1
