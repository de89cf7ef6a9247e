#!/usr/bin/env bash
# Ends the Slurm of tests/slurm/start.sh and its jobs:   tests/slurm/stop.sh FOLDER
set -euo pipefail
FOLDER="$(realpath "$1")"
SLURM_CONF="$FOLDER/slurm.conf" scancel --user="$(id -un)" 2> /dev/null || true
for pid in "$FOLDER"/slurmd.*.pid "$FOLDER"/slurmctld.pid; do
  [ -e "$pid" ] && kill "$(cat "$pid")" 2> /dev/null || true
done
