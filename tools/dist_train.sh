#!/usr/bin/env bash
# Train on several processes:   tools/dist_train.sh CONFIG GPUS [more arguments of tools/train.py]
# Several nodes: the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
# Without a GPU, GPUS is the number of CPU processes (gloo).
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]" >&2
  exit 2
fi
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/launch.sh"
launch "$HERE/train.py" "$2" "$1" "${@:3}"
