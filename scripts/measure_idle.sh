#!/usr/bin/env bash
# Take every speed figure of README.md again, on a machine that does nothing else: about a quarter of an hour on two cores.
# usage: scripts/measure_idle.sh [NAME...]   (all without a name; `python scripts/readme_tables.py` then fills README.md)
# Times come first, one after the other. What is not a time (soak, tiled_accuracy, scene_memory) comes last, side by side.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
names=("$@")
[ ${#names[@]} -gt 0 ] ||
    names=(postprocess_speed merge_speed runtime_speed scene_speed repeatability gui_speed gui_turns bench scene_memory tiled_accuracy soak)
failed=() beside=()

measure() {
    case "$1" in
        scene_memory) "$python" -m benchmarks.scene_memory --backend onnx --json results/scene_memory.json ;;
        scene_speed) "$python" -m benchmarks.scene_memory --backend npu --json results/scene_speed.json ;;
        gui_speed) "$python" -m gui.speed_benchmark --json results/gui_speed.json ;;
        gui_turns) "$python" -m gui.turns_benchmark --json results/gui_turns.json ;;
        gui_memory) "$python" -m gui.memory_benchmark --json results/gui_memory.json ;;
        bench) scripts/bench_readme.sh ;;
        *) "$python" -m "benchmarks.$1" --json "results/$1.json" ;;
    esac
}

for name in "${names[@]}"; do
    echo "== $name"
    case "$name" in
        soak | tiled_accuracy | scene_memory)
            measure "$name" &
            beside+=("$!:$name")
            ;;
        # A benchmark that did not reach its aim has written its figures nevertheless: go on with the others.
        *) measure "$name" || failed+=("$name") ;;
    esac
done
for one in ${beside[@]+"${beside[@]}"}; do
    wait "${one%%:*}" || failed+=("${one#*:}")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "not as wanted, or failed: ${failed[*]}" >&2
    exit 1
fi
