#!/usr/bin/env bash
# Train under Slurm:   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB CONFIG [more]
# CPUS_PER_TASK and SRUN_ARGS are passed on.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: tools/slurm_train.sh PARTITION JOB CONFIG [arguments of tools/train.py]" >&2
  exit 2
fi
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
GPUS="${GPUS:-8}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
read -r -a more <<< "${SRUN_ARGS:-}"
exec srun -p "$1" --job-name "$2" --gres "gpu:$GPUS_PER_NODE" --ntasks "$GPUS" \
  --ntasks-per-node "$GPUS_PER_NODE" --cpus-per-task "${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 \
  "${more[@]}" "${PYTHON:-python}" -u "$HERE/train.py" "$3" "${@:4}" --launcher slurm
