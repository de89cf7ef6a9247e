#!/usr/bin/env bash
# Train under Slurm:   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh PARTITION JOB CONFIG [more]
# GPUS is the number of processes in all, here on two nodes (in dist_train.sh: on each node).
# CPUS_PER_TASK and SRUN_ARGS are passed on.
# One process prints a mistake (exit status 2); srun's report of the tasks that failed is left out.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: GPUS=ALL GPUS_PER_NODE=N tools/slurm_train.sh PARTITION JOB CONFIG" \
    "[arguments of tools/train.py]" >&2
  exit 2
fi
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
GPUS="${GPUS:-8}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
read -r -a more <<< "${SRUN_ARGS:-}"
export SEMMAE_FIRST_FAILURE="${TMPDIR:-/tmp}/semmae_first_failure.$(hostname).$$.$(date +%s)"
report='^srun: error: .* tasks? .*: (Exited with exit code|Terminated)|^srun: (Terminating|.*_step_signal)'
report+='|^srun: Job step aborted|^slurmstepd: error: \*\*\* STEP .* CANCELLED AT [0-9T:-]+ \*\*\*$'
exec srun -p "$1" --job-name "$2" --gres "gpu:$GPUS_PER_NODE" --ntasks "$GPUS" \
  --ntasks-per-node "$GPUS_PER_NODE" --cpus-per-task "${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 \
  "${more[@]}" "${PYTHON:-python}" -u "$HERE/train.py" "$3" "${@:4}" --launcher slurm \
  2> >(grep --line-buffered -vE "$report" >&2)
