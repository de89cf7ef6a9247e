#!/usr/bin/env bash
# Every test, from nothing: makes .venv if there is none. Arguments go to pytest:
#   bash tools/run_tests.sh            bash tools/run_tests.sh -m "not slow"
# Without arguments the tests run in two halves at once, one core each. Exit status 0: both passed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
"$PYTHON" -m ruff check --quiet .
if [ $# -gt 0 ]; then
  exec "$PYTHON" -m pytest -q "$@"
fi
export OMP_NUM_THREADS=1
log="$(mktemp)"
trap 'rm -f "$log"; kill "$engine" 2>/dev/null || true' EXIT
"$PYTHON" -m pytest -q tests/engine > "$log" 2>&1 &
engine=$! status=0
"$PYTHON" -m pytest -q tests --ignore tests/engine || status=$?
wait "$engine" || status=$?
cat "$log"
exit "$status"
