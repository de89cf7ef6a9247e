#!/usr/bin/env bash
# Evaluate on several processes:   tools/dist_test.sh CONFIG CHECKPOINT GPUS [more of tools/test.py]
# GPUS is the number of processes on EACH node; several nodes as in dist_train.sh.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: [NNODES=N NODE_RANK=R MASTER_ADDR=HOST PORT=P] tools/dist_test.sh CONFIG" \
    "CHECKPOINT GPUS_PER_NODE [arguments of tools/test.py]" >&2
  exit 2
fi
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${PYTHON:-python}" "$HERE/launch.py" test "$3" "$1" "$2" "${@:4}"
