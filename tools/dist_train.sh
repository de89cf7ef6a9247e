#!/usr/bin/env bash
# Train on several processes:   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# GPUS is the number of processes on EACH node, one for each GPU; without a GPU, of CPU processes
# (gloo). For the paper's 16 GPUs on two nodes of 8, run on both, with NODE_RANK=0 and 1:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=first-node PORT=29500 tools/dist_train.sh CONFIG 8
# Exit status: that of tools/train.py. One process prints a mistake.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: [NNODES=N NODE_RANK=R MASTER_ADDR=HOST PORT=P] tools/dist_train.sh CONFIG" \
    "GPUS_PER_NODE [arguments of tools/train.py]" >&2
  exit 2
fi
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${PYTHON:-python}" "$HERE/launch.py" train "$2" "$1" "${@:3}"
