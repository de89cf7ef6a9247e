#!/usr/bin/env bash
# Style (ruff) and types (mypy), as run_tests.sh and the pre-commit hook run them: bash tools/lint.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m mypy --no-error-summary
