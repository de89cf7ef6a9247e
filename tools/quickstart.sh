#!/usr/bin/env bash
# SemMAE from images to tables on a small machine:
#   bash tools/quickstart.sh [--data DIR] [--encoder FILE]
# Makes .venv, draws parts, masks and reconstructions of photographs, then learns parts, pre-trains
# MAE and SemMAE, evaluates both, prints the tables and writes an HTML report. --data DIR: pictures,
# part learning and pre-training are of the images below DIR (any depth); the labelled tasks use the
# toy set. --encoder FILE: the parts of the pictures are those of a DINOv2 ViT-S/14. Started again
# after a stop, it continues.
set -euo pipefail
data="" encoder=""
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data="$(cd "${2:?--data needs a folder}" && pwd)"; shift 2 ;;
    --encoder) encoder="$(realpath -e "${2:?--encoder needs a file}")"; shift 2 ;;
    *) echo "usage: bash tools/quickstart.sh [--data DIR] [--encoder FILE]   (found: $1)" >&2; exit 2 ;;
  esac
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup
work=work_dirs/quickstart
[ -z "$data" ] || work="work_dirs/quickstart-$(basename "$data")-$(cksum <<< "$data" | cut -d ' ' -f 1)"
echo "== First pictures"
OMP_NUM_THREADS=1 step "$PYTHON" -m semmae demo --out "$work/pictures" ${data:+--images "$data"} \
  ${encoder:+--encoder "$encoder"}
echo "== Part learning, two pre-trainings, their evaluation"
step "$PYTHON" tools/run_suite.py quick --jobs 2 --work-dir "$work" ${data:+--data "$data"}
step "$PYTHON" tools/make_tables.py "$work" --measured
cat << EOF

The numbers show that every stage runs; the trainings are too short to compare methods. Next:
  source .venv/bin/activate                                        # the environment
  bash tools/quickstart.sh --data DIR                              # your own images
  semmae embed IMAGES --checkpoint FILE --out features.npz         # features from your checkpoint
  semmae probe DIR --checkpoint FILE                               # its accuracy on your labelled images
  semmae suite dense --timm vit_small_patch14_dinov2 --dry-run     # the dense table: what it needs
  semmae suite mini --jobs 2                                       # the same rows, trained longer
Pictures: $work/pictures/parts_and_masks.png $work/pictures/reconstructions.png
Report: $work/seed0/report/report.html
EOF
