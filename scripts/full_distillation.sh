#!/usr/bin/env bash
# The full distillation table on VHR-10, for a machine with a GPU: YOLOv8m teacher, YOLOv8n student at 512, every loss and
# the method without each of its parts, 3 seeds each.
# usage: scripts/full_distillation.sh DATA_ROOT OUT [rsedge compare options]      PYTHON=python3 chooses the interpreter
# Runs from source. The same command goes on where it was stopped.
set -euo pipefail
root=$(realpath "$1") out=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m rsedge compare distill_vhr10 --rows distillation --seeds 3 --out "$out" \
    --set data.root="$root" --set data.workers=8 "$@"
