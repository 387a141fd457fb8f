#!/usr/bin/env bash
# The table and the two plots of `rsedge bench` in README.md: both shipped bundles on the emulated NPU, some three minutes.
# usage: scripts/bench_readme.sh      (run it on a machine that does nothing else; then python scripts/readme_tables.py)
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-.venv/bin/python}" -m rsedge bench deploy/zoo/vhr10 deploy/zoo/procedural --out runs/bench --backend emulated --seconds 1
cp runs/bench/bench.json results/bench.json
for plot in throughput pareto; do cp "runs/bench/$plot.png" "docs/images/bench_$plot.png"; done
