#!/usr/bin/env bash
# SemMAE from images to tables on a small machine:   bash tools/quickstart.sh [--data DIR]
# Makes .venv, learns parts, pre-trains MAE and SemMAE, evaluates both, prints the tables and writes
# an HTML report. --data DIR: part learning and pre-training on the images below DIR (any depth);
# the labelled tasks use the toy set. Started again after a stop, it continues.
set -euo pipefail
data=""
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data="$(cd "${2:?--data needs a folder}" && pwd)"; shift 2 ;;
    *) echo "usage: bash tools/quickstart.sh [--data DIR]   (found: $1)" >&2; exit 2 ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
work=work_dirs/quickstart
[ -z "$data" ] || work="work_dirs/quickstart-$(basename "$data")-$(cksum <<< "$data" | cut -d ' ' -f 1)"
"$PYTHON" tools/run_suite.py mini --jobs 2 --work-dir "$work" ${data:+--data "$data"}
"$PYTHON" tools/make_tables.py "$work" --measured
echo "Report: $work/seed0/report/report.html"
