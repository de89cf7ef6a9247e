#!/usr/bin/env bash
# Evaluate on several processes:   tools/dist_test.sh CONFIG CHECKPOINT GPUS [more of tools/test.py]
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]" >&2
  exit 2
fi
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$HERE/launch.sh"
launch "$HERE/test.py" "$3" "$1" "$2" "${@:4}"
