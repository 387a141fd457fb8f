"""Fill the tables of README.md from the results that are committed: `python scripts/readme_tables.py [--check]`.

No figure of the README is typed by hand. `--check` changes nothing and exits with 1 where a table is not what the
results say.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FORMS = {
    "float": "float, before quantisation",
    "torch": "float (torch)",
    "onnx": "ONNX Runtime",
    "rknn_sim": "**INT8 `.rknn`, vendor's simulator**",
}


def accuracy_table(report: dict[str, Any]) -> list[str]:
    """Return the lines for a report.json: what was run, its scores, where they come from."""
    training, rknn = report["training"], report["rknn"]
    source = training["provenance"]
    lines = [
        f"| {report['model']}, {report['image_size']} x {report['image_size']}, {report['data']['images']} "
        f"{report['data']['split']} images of {report['data']['name']} | mAP50 | mAP50-95 |",
        "| --- | --- | --- |",
    ]
    learnt = "float" in report["accuracy"]
    for name, row in report["accuracy"].items():
        form = "fake-quantised (torch)" if learnt and name == "torch" else FORMS[name]
        lines.append(f"| {form} | {100 * row['map50']:.1f} | {100 * row['map50_95']:.1f} |")
    how = "integers learnt, none calibrated" if learnt else f"{rknn['calibration_images']} calibration images"
    after = " after the float training" if learnt else ""
    lines += [
        "",
        f"{rknn['layers_int8']} of {rknn['layers']} layers INT8 on the NPU, {rknn['layers_cpu']} on the CPU, "
        f"{rknn['cycles'] / 1e6:.2f} M cycles by the compiler's table; "
        f"{how}. "
        f"Trained {training['epochs']} epochs in {training['minutes']:.0f} minutes{after} on {source['machine']}; "
        f"commit {source['commit']}, seed {source['seed']}.",
    ]
    return lines


def start_table(reports: list[dict[str, Any]]) -> list[str]:
    """Return the lines that compare starting weights: same recipe, same epochs."""
    first = reports[0]
    lines = [
        f"Does it help to start from drawn scenes? The same short run ({first['training']['epochs']} epochs at "
        f"{first['image_size']} x {first['image_size']}, one seed, float):",
        "",
        "| start | mAP50 | mAP50-95 |",
        "| --- | --- | --- |",
    ]
    for report in reports:
        row = report["accuracy"]["torch"]
        start = "from scratch" if report["recipe"]["model"]["weights"] == "none" else "from procedural weights"
        lines.append(f"| {start} | {100 * row['map50']:.1f} | {100 * row['map50_95']:.1f} |")
    return lines


def postprocess_table(result: dict[str, Any]) -> list[str]:
    """Return the lines for the JSON document of `python -m benchmarks.postprocess_speed`."""
    rows = result["results"]
    lines = [
        "| ms per image, 10 classes, 512 x 512 |" + "".join(f" {row['objects']} objects |" for row in rows),
        "| --- |" + " --- |" * len(rows),
    ]
    for key in [key for key in rows[0] if key.endswith("_ms")]:
        name = key.removesuffix("_ms").replace("_", " ")
        lines.append(f"| {name} |" + "".join(f" {row[key]:.3f} |" for row in rows))
    origin = f"{result['machine']}, commit {result['commit'][:12]}"
    return [*lines, "", f"Medians of {result['rounds']} interleaved rounds, {origin}; `make bench` repeats it."]


def comparison_lines(table: dict[str, Any]) -> list[str]:
    """Return the lines for the comparison.json of `rsedge compare`: one row per recipe, against the reference."""

    def points(figure: dict[str, float | None]) -> str:
        spread = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
        return f"{100 * figure['mean']:.1f}{spread}" if figure["mean"] is not None else "-"

    about, seeds = table["about"], len(table["seeds"])
    lines = [
        f"| {about['student']}, {about['image_size']} x {about['image_size']}, {about['epochs']} epochs, "
        f"{seeds} seed{'s' * (seeds > 1)} | mAP50 | mAP50-95 | difference, {100 * table['level']:.0f} % interval | p |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in table["rows"]:
        d = (row["difference"] or {}).get("map50_95")
        cells = ["reference", ""]
        if d:
            cells = [f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]", f"{d['p']:.3f}"]
        lines.append(f"| {row['name']} | {points(row['map50'])} | {points(row['map50_95'])} | {' | '.join(cells)} |")
    origin = about["provenance"]
    return [
        *lines,
        "",
        f"{table['images']} val images, scored after the last epoch; mean ± standard deviation over seeds; intervals "
        f"by paired bootstrap over {table['covers']} ({table['resamples']} resamples)."
        + (f" Teacher: {'; '.join(about['teachers'])}." if about["teachers"] else "")
        + f" {origin['machine']}, commit {origin['commit']}.",
    ]


def runtime_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines about the runtime: the load on an emulated NPU, and what else was measured of it."""
    speed = results["runtime_speed"]
    rates, shares, bound = speed["images_per_s"], speed["of_bare"], speed["bound_images_per_s"]
    lines = [
        f"| emulated NPU, 3 cores x 7.91 ms (bound {bound:.0f} images/s) | images/s | of the bare NPU | of the bound |",
        "| --- | --- | --- | --- |",
    ]
    told = {
        "bare": "bare: six threads that do nothing else",
        "saturation": "**the runtime: letterbox from 1024, 30 objects an image**",
        "saturation_three_times": "the same with all work of the CPU done three times",
        "saturation_one_context": "one context per core instead of two",
    }
    lines += [
        f"| {text} | {rates[name]:.0f} | {100 * shares[name]:.1f} % | {100 * rates[name] / bound:.1f} % |"
        for name, text in told.items()
    ]
    fair = "Bare threads have neither the runtime's switch interval nor its pause after each answer."
    if "of_bare_range" in speed:
        low, high = speed["of_bare_range"]["saturation"]
        fair = (
            "Bare threads have the runtime's own switch interval and pause after each answer; over "
            f"{speed['rounds']} rounds the runtime came to {100 * low:.1f} to {100 * high:.1f} % of them."
        )
    frames = f" of {speed['offered_frames']:,} frames" if "offered_frames" in speed else ""
    lines += [
        "",
        fair,
        f"At {speed['offered_per_s']} images/s offered: p50 {speed['offered_p50_ms']:.1f} ms, "
        f"p99 {speed['offered_p99_ms']:.1f} ms{frames}. Two threads inside one context: "
        f"{speed['two_threads_in_one_context']} times.",
    ]
    if soak := results.get("soak"):
        lines.append(
            f"{soak['frames']:,} frames ({soak['hours']:.0f} hour of three cores) through a fast clock: none lost, "
            f"doubled or mixed up, memory {soak['growth_mb']:+.1f} MB."
        )
    if tiled := results.get("tiled_accuracy"):
        whole, cut = tiled["points"]["whole"], tiled["points"]["tiled"]
        intervals = tiled.get("difference_interval", {})
        told_ends = {name: f" [{low:+.1f}, {high:+.1f}]" for name, (low, high) in intervals.items()}
        lines.append(
            f"Tiled, drawn scenes score {tiled['difference']['map50_95']:+.1f}{told_ends.get('map50_95', '')} points "
            f"mAP50-95 ({cut['map50_95']:.1f} instead of {whole['map50_95']:.1f}) and "
            f"{tiled['difference']['map50']:+.1f}{told_ends.get('map50', '')} mAP50 against the same objects untiled "
            f"({tiled['scenes']} scenes{', 95 % intervals by bootstrap' if intervals else ''})."
        )
    if merge := results.get("merge_speed"):
        row = merge["results"][0]
        lines.append(f"Merging {row['tile_boxes']:,} tile boxes takes {row['merge_ms']:.0f} ms.")
    if memory := results.get("scene_memory"):
        speed_of = results.get("scene_speed")
        ratio = speed_of and speed_of["file_against_memory"]
        shares_of = f"; its tiles come at {ratio:.2f} of the speed of tiles in memory" if ratio else ""
        lines.append(
            f"A GeoTIFF of {memory['side_px']:,} x {memory['side_px']:,} pixels: peak memory "
            f"{memory['peak_mb']:.0f} MB with ONNX Runtime{shares_of}."
        )
    where = f"{speed['machine']}, commit {speed['commit'][:12]}"
    lines += ["", f"{where}; no board, `python -m benchmarks.runtime_speed` repeats it."]
    return lines


def real_scenes_table(result: dict[str, Any]) -> list[str]:
    """Return the lines for the JSON document of `python -m benchmarks.real_scenes`: each set at its best F1."""
    lines = [
        "| real pictures | boxes | median side | best tile, score | precision | recall | hits, misses, false alarms |",
        "| --- | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for found in result["sets"]:
        best = found["best"]
        row = next(r for r in found["rows"] if all(r[key] == best[key] for key in best))
        count = f"{found['images']} frames" if found["kind"] == "video" else ""
        name = f"{found['name']}{', ' if count else ''}{count}"
        lines.append(
            f"| {name} | {found['boxes']} | {found['median_side_px']:.0f} px | {best['tile_px']} px, {best['score']} | "
            f"{row['precision']:.2f} | {row['recall']:.2f} | {row['hits']}, {row['misses']}, {row['false_alarms']} |"
        )
    return [
        *lines,
        "",
        f"Bundle {result['bundle']} ({result['backend']}), IoU {result['iou']}; tile and score are the best of those "
        f"tried on these very pictures; commit {result['commit'][:12]}.",
    ]


def bench_table(report: dict[str, Any], repeated: dict[str, Any] | None) -> list[str]:
    """Return the lines for the JSON document of `rsedge bench`, and of `python -m benchmarks.repeatability`."""
    lines = [
        "| bundle | one image: p50, p99 (ms) | images/s | knee | post-processing | mAP50-95 | one core, estimated |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for bundle in report["bundles"]:
        total = bundle["latency"]["stages"]["total"]
        best = max(row["images_per_s"]["value"] for row in bundle["contexts"])
        post = bundle["latency"]["stages"]["postprocess"]["p50"]["value"]
        cost, accuracy = bundle["estimate"], bundle["accuracy"]["forms"]["rknn_sim"]["map50_95"]
        lines.append(
            f"| {bundle['name']} on {bundle['backend']} | {total['p50']['value']:.1f} [{total['p50']['low']:.1f}, "
            f"{total['p50']['high']:.1f}], {total['p99']['value']:.1f} | {best:.0f} | {bundle['knee_per_s']:.0f}/s | "
            f"{post:.2f} ms | {100 * accuracy:.1f} | {cost['estimated_ms']:.1f} ms [{cost['low_ms']:.1f}, "
            f"{cost['high_ms']:.1f}] |"
        )
    origin = report["provenance"]
    lines += [
        "",
        f"`scripts/bench_readme.sh`, commit {str(origin['commit'])[:12]}. The emulated NPU is held as long as the "
        "estimate says: times tell of the runtime around an NPU, never of the NPU.",
    ]
    if repeated:
        total, pairs = repeated["stages"]["total"], repeated["pairs"]
        lines.append(
            f"A second run in a fresh process: its p50 lies where the first one said that a second one would (± "
            f"{100 * total['median_half_repeat']:.1f} %, visits spread over the run) in {total['inside']} of {pairs} "
            f"pairs, {total['same']} are the same by `--compare`, the largest difference "
            f"is {100 * total['largest_difference']:.1f} %; the runner itself costs "
            f"{100 * repeated['overhead_median']:.2f} %."
        )
    return lines


def gui_lines(speed: dict[str, Any], memory: dict[str, Any] | None, turns: dict[str, Any] | None) -> list[str]:
    """Return the lines for the JSON documents of `gui`'s `speed_benchmark`, `memory_benchmark`, `turns_benchmark`."""
    decoded, file, late = speed["decoded"], speed["file"], speed["input"]["saturated"]
    lines = [
        "With the window shown, 720p video on the emulated NPU keeps "
        f"{100 * decoded['share_of_headless']:.1f} % of the headless throughput "
        f"({decoded['window_images_per_s']:.0f} images/s; {100 * file['share_of_headless']:.1f} % where the CPU "
        f"decodes it too) at {decoded['pictures_per_s']:.0f} pictures a second. With {speed['boxes']:,} boxes on the "
        f"screen and the runtime saturated, dragging reaches it in {late['pan_p99_ms']:.0f} ms and the score slider in "
        f"{late['slider_p99_ms']:.0f} ms (p99). From the command to the first picture: {speed['start_s']:.1f} s.",
    ]
    if memory:
        lines[0] += f" {memory['frames']:,} frames of looped video: {memory['growth_mib']:+.1f} MiB."
    if turns:
        lines[0] += (
            f" Of {len(turns['actions'])} things that a user does, none holds the window up for longer than "
            f"{turns['worst_ms']:.0f} ms, the first time included (median of {turns['rounds']} runs; the longest turn "
            f"of all took {turns['worst_single_ms']:.0f} ms)."
        )
    lines += [
        "",
        f"{speed['machine']}, commit {str(speed['commit'])[:12]}; `python -m gui.speed_benchmark`, "
        "`gui.memory_benchmark` and `gui.turns_benchmark` repeat it.",
    ]
    return lines


def sections() -> dict[str, list[str]]:
    """Return the lines of each marked section whose results are there."""
    found: dict[str, list[str]] = {}
    results = ROOT / "results"

    def load(name: str) -> Any:
        return json.loads((results / name).read_text(encoding="utf-8"))

    if (results / "vhr10_yolov8n.json").is_file():
        found["vhr10"] = accuracy_table(load("vhr10_yolov8n.json"))
        starts = [results / f"vhr10_start_{name}.json" for name in ("procedural", "scratch")]
        if all(path.is_file() for path in starts):
            found["vhr10"] += ["", *start_table([load(path.name) for path in starts])]
    if (results / "distillation_vhr10.json").is_file():
        found["distillation"] = comparison_lines(load("distillation_vhr10.json"))
    for bits in (8, 6, 4):
        if (results / f"quantisation_{bits}_vhr10.json").is_file():
            found[f"quantisation_{bits}"] = comparison_lines(load(f"quantisation_{bits}_vhr10.json"))
    if (results / "demo.json").is_file():
        found["demo"] = accuracy_table(load("demo.json"))
    runtime = ("runtime_speed", "soak", "tiled_accuracy", "merge_speed", "scene_memory", "scene_speed")
    measured = {name: load(f"{name}.json") for name in runtime if (results / f"{name}.json").is_file()}
    if "runtime_speed" in measured:
        found["runtime"] = runtime_table(measured)
    if (results / "bench.json").is_file():
        again = load("repeatability.json") if (results / "repeatability.json").is_file() else None
        found["bench"] = bench_table(load("bench.json"), again)
    if (results / "gui_speed.json").is_file():
        kept = load("gui_memory.json") if (results / "gui_memory.json").is_file() else None
        turns = load("gui_turns.json") if (results / "gui_turns.json").is_file() else None
        found["gui"] = gui_lines(load("gui_speed.json"), kept, turns)
    if (results / "real_scenes.json").is_file():
        found["real_scenes"] = real_scenes_table(load("real_scenes.json"))
    if (results / "postprocess_speed.json").is_file():
        found["postprocess"] = postprocess_table(load("postprocess_speed.json"))
    return found


def filled(text: str) -> str:
    """Return the README with every marked section replaced."""
    for name, lines in sections().items():
        body = "\n".join(["", *lines, ""])
        pattern = re.compile(rf"(<!-- results:{name} -->\n).*?(<!-- /results:{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no section <!-- results:{name} -->; put the two marks back")
        start, end = f"<!-- results:{name} -->\n", f"<!-- /results:{name} -->"
        text = pattern.sub(lambda _, block=start + body + "\n" + end: block, text)  # type: ignore[misc]
    return text


def main() -> int:
    """Fill or check the README."""
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = filled(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            print("README.md: a table differs from results/; run python scripts/readme_tables.py", file=sys.stderr)
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
