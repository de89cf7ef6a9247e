#!/usr/bin/env bash
# Every test, from nothing: makes .venv if there is none. Further arguments go to pytest:
#   bash tools/run_tests.sh            bash tools/run_tests.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
"$PYTHON" -m ruff check --quiet .
exec "$PYTHON" -m pytest -q "$@"
