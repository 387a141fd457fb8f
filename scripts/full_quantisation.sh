#!/usr/bin/env bash
# The full quantisation tables on VHR-10, for a machine with a GPU: one float network, the toolkit's calibrations and every kind
# of training at 8 bits, and training at 6 and 4 bits (research), 3 seeds each.
# usage: scripts/full_quantisation.sh DATA_ROOT FLOAT_CHECKPOINT OUT [rsedge compare options]
# PYTHON=python3 chooses the interpreter. Runs from source. The same command goes on where it was stopped.
set -euo pipefail
root=$(realpath "$1") start=$(realpath "$2") out=$(realpath -m "$3")
shift 3
cd "$(dirname "$0")/.."
for rows in quantisation quantisation_6 quantisation_4; do
    "${PYTHON:-python3}" -m rsedge compare quantise_vhr10 --rows "$rows" --seeds 3 --out "$out/$rows" \
        --set data.root="$root" --set quantize.checkpoint="$start" --set data.workers=8 "$@"
done
