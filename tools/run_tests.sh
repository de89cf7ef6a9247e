#!/usr/bin/env bash
# Lint, types and every test, from nothing: makes .venv if there is none. Arguments go to pytest:
#   bash tools/run_tests.sh            bash tools/run_tests.sh -m "not slow"
# The tests run in two processes, one core each (JOBS=n for another number).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
bash tools/lint.sh
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -q -n "${JOBS:-2}" "$@"
