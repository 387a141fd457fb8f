#!/usr/bin/env bash
# The full VHR-10 runs, for a machine with a GPU: YOLOv8n (from scratch and from drawn scenes) and YOLOv8m, 300 epochs each.
# usage: scripts/full_vhr10.sh DATA_ROOT OUT [--set KEY=VALUE ...]      PYTHON=python3 chooses the interpreter
# Runs from source. Stopped runs go on where they were; export the checkpoints where rknn-toolkit2 is installed:
#   rsedge export OUT/NAME/checkpoint.pt --out BUNDLE --set data.root=DATA_ROOT
set -euo pipefail
root=$(realpath "$1") out=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
run() {
    local name=$1
    shift
    local resume=()
    if [ -f "$out/$name/last.pt" ]; then resume=(--resume); fi
    "${PYTHON:-python3}" -m rsedge train vhr10_yolov8n --out "$out/$name" --set data.root="$root" \
        --set export.enabled=false --set data.workers=8 --set train.validate_every=10 "${resume[@]}" "$@"
}
run yolov8n_procedural "$@"
run yolov8n_scratch --set model.weights=none "$@"
run yolov8m_scratch --set model.size=m --set model.weights=none "$@"
