#!/usr/bin/env bash
# Take every speed figure of README.md again, on a machine that does nothing else: about a quarter of an hour.
# usage: scripts/measure_idle.sh [NAME...]   (all without a name; `python scripts/readme_tables.py` then fills README.md)
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(postprocess_speed merge_speed runtime_speed tiled_accuracy scene_memory scene_speed soak gui_speed repeatability bench)

for name in "${names[@]}"; do
    echo "== $name"
    case "$name" in
        scene_memory) "$python" -m benchmarks.scene_memory --backend onnx --json results/scene_memory.json ;;
        scene_speed) "$python" -m benchmarks.scene_memory --backend npu --json results/scene_speed.json ;;
        gui_speed) "$python" -m gui.speed_benchmark --json results/gui_speed.json ;;
        gui_memory) "$python" -m gui.memory_benchmark --json results/gui_memory.json ;;
        bench)
            "$python" -m rsedge bench deploy/zoo/vhr10 deploy/zoo/procedural --backend emulated --seconds 2 --out runs/bench
            cp runs/bench/bench.json results/bench.json
            for plot in throughput pareto; do cp "runs/bench/$plot.png" "docs/images/bench_$plot.png"; done
            ;;
        *) "$python" -m "benchmarks.$name" --json "results/$name.json" ;;
    esac
done
