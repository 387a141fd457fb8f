"""Measure one bundle from end to end and fill its entry of the report, part by part.

Single images are no part of their own: they are visited before the first part, in pauses of the others and after the
last, so that their interval knows how the machine differs from itself in the course of a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .ablation import of_contexts, of_post_processing, of_release
from .accuracy import accuracy_of
from .course import Course
from .estimates import estimate_of
from .field import against_onnx_runtime, against_post_processing
from .latency import Latency, SingleImages
from .plan import Plan
from .power import PowerTrace, Window, energy_per_image
from .subject import Pictures, Subject, open_subject
from .throughput import Saturation, knee_of, offer, saturate, sweep

CAMERA_PER_S = 30.0
# Share of the time that the parts are thought to take in which all visits to single images but the last fall due.
AHEAD = 0.85


class BundleMeasurement:
    """Runs the parts in order; `entry` holds what is finished at any moment, so that a stop loses nothing.

    saturation: that of the usual contexts, whose window tells the energy.
    """

    def __init__(self, bundle: Path, backend: str, pictures: Pictures, plan: Plan, course: Course) -> None:
        self.plan, self.course, self.bundle = plan, course, bundle
        self.estimate = estimate_of(bundle)
        course.step(f"{bundle.name}: opening")
        self.subject = open_subject(bundle, backend, pictures, self.estimate.get("estimated_ms"))
        self.saturation: Saturation | None = None
        self.singles = SingleImages(self.subject, seconds=plan.latency_s / plan.visits, precision=plan.precision)
        # When the next visit is due, and how long after the one before.
        self._due, self._gap_s = 0.0, 0.0
        self.unreachable: str | None = None
        self.entry = _empty_entry(self.subject, self.estimate)

    def run(self, per_s: float | None) -> None:
        """Measure everything of the plan. per_s: the fixed rate that was asked for; None: a camera's."""
        subject, plan, course = self.subject, self.plan, self.course
        name = subject.manifest.name
        parts: list[tuple[str, float, Callable[[], None]]] = [
            ("as fast as it goes", plan.seconds, self._saturation),
            (f"{per_s or CAMERA_PER_S:g} images/s offered", 2 * plan.seconds, lambda: self._offered(per_s)),
            ("numbers of contexts", plan.seconds * len(self._setups()), self._contexts),
            ("post-processing, in turns", plan.seconds, self._post_processing),
            ("contexts and release, in turns", 5 * self._round_s() * plan.slow_rounds, self._runtime),
            *([("ONNX Runtime alone, in turns", plan.seconds, self._floor)] if subject.kind == "onnx" else []),
            ("sweep of offered rates", plan.seconds * (len(plan.shares) + plan.refine), self._sweep),
        ]
        # A little less than the parts will take, so that the last visits do not crowd at the end.
        self._gap_s = AHEAD * sum(seconds for _, seconds, _ in parts) / plan.visits
        self._visit()
        course.between = self._visit_where_due
        try:
            for told, seconds, part in parts:
                course.pause()
                if course.stopped:
                    break
                course.step(f"{name}: {told}", seconds)
                try:
                    part()
                except KeyboardInterrupt:  # stopped before this part had anything to report
                    if not course.stopped:
                        raise
                    break
        finally:
            course.between = None
        while not course.stopped and len(self.singles.visits) < plan.visits:
            self._visit()

    @property
    def latency(self) -> Latency | None:
        """Times of single images, for calibration; None before the first visit."""
        return self.singles.latency() if self.singles.visits else None

    def _visit_where_due(self) -> None:
        # One is kept for the end: what changed in the last minute belongs to the run too.
        if time.monotonic() >= self._due and len(self.singles.visits) < self.plan.visits - 1:
            self._visit()

    def _visit(self) -> None:
        if self.course.stopped:
            return
        number = len(self.singles.visits) + 1
        told = f"{self.subject.manifest.name}: one image at a time, visit {number} of {self.plan.visits}"
        self.course.step(told, self.singles.seconds)
        if self.singles.visit(self.course):
            self.entry["latency"] = self.singles.latency().to_json()
        self._due = time.monotonic() + self._gap_s

    def _saturation(self) -> None:
        self.saturation = saturate(self.subject, self._usual(), self.course, seconds=self.plan.seconds)
        self.entry["contexts"].append(self.saturation.to_json())

    def _usual(self) -> tuple[int, ...]:
        return self.subject.usual

    def _capacity(self) -> float:
        if self.saturation is None:
            raise ValueError("the capacity was not measured")
        return self.saturation.images_per_s.value

    def _offered(self, per_s: float | None) -> None:
        capacity = self._capacity()
        rate = per_s if per_s is not None else min(CAMERA_PER_S, 0.5 * capacity)
        found = offer(self.subject, self._usual(), self.course, per_s=rate, seconds=self.plan.seconds * 2)
        self.entry["offered"] = found.to_json()
        if per_s is not None and not found.kept_up:
            self.unreachable = (
                f"--rate {per_s:g}: {self.subject.manifest.name} on {self.subject.kind} does not keep up, "
                f"{found.achieved_per_s:.1f} images/s came out and every second a frame waited "
                f"{found.growth_ms_per_s:.0f} ms longer; it can do {capacity:.1f} images/s, ask for less"
            )

    def _setups(self) -> list[tuple[tuple[int, ...], int]]:
        """Return cores of contexts and images decoded per call, for each run at saturation."""
        tried = [(self.subject.placed(n), 1) for n in self.plan.contexts]
        if self.plan.masks:
            tried += [(cores, 1) for cores in self.subject.masks()]
        return tried + [(self._usual(), batch) for batch in self.plan.batches if batch > 1]

    def _round_s(self) -> float:
        return (0.6 if self.plan.quick else 0.5) * self.plan.seconds

    def _contexts(self) -> None:
        subject, plan = self.subject, self.plan
        seen = {(tuple(row["cores"]), row["postprocess_batch"]) for row in self.entry["contexts"]}
        for cores, batch in self._setups():
            self.course.pause()
            if (cores, batch) in seen or self.course.stopped:
                continue
            seen.add((cores, batch))
            found = saturate(subject, cores, self.course, seconds=plan.seconds, postprocess_batch=batch)
            self.entry["contexts"].append(found.to_json())
        self.entry["contexts"].sort(key=lambda row: (row["postprocess_batch"], row["contexts"], row["cores"]))

    def _post_processing(self) -> None:
        plan, limit = self.plan, max(1.0, 2 * self.plan.seconds)
        rows = of_post_processing(self.subject, self.course, rounds=plan.fast_rounds, seconds=limit)
        self.entry["ablation"] += [row.to_json() for row in rows]
        if self.course.stopped:
            return
        rows = against_post_processing(self.subject, self.course, rounds=plan.fast_rounds, seconds=limit)
        self.entry["field"] += [row.to_json() for row in rows]

    def _runtime(self) -> None:
        plan, each = self.plan, self._round_s()
        rows = of_contexts(self.subject, self.course, rounds=plan.slow_rounds, seconds=each)
        self.entry["ablation"] += [row.to_json() for row in rows]
        if self.course.stopped:
            return
        rows = of_release(
            self.subject, self.course, rounds=plan.slow_rounds, seconds=each, capacity_per_s=self._capacity()
        )
        self.entry["ablation"] += [row.to_json() for row in rows]

    def _floor(self) -> None:
        rows = against_onnx_runtime(
            self.subject, self.course, rounds=self.plan.fast_rounds, seconds=2 * self.plan.seconds
        )
        self.entry["field"] += [row.to_json() for row in rows]

    def _sweep(self) -> None:
        points = sweep(
            self.subject,
            self._usual(),
            self.course,
            capacity_per_s=self._capacity(),
            shares=self.plan.shares,
            seconds=self.plan.seconds,
            refine=self.plan.refine,
        )
        self.entry["sweep"] = [point.to_json() for point in points]
        knee = knee_of(points)
        self.entry["knee_per_s"] = knee.offered_per_s if knee else None

    def add_energy(self, traces: list[PowerTrace], standby: Window | None) -> None:
        """Work the energy of the saturated run out from power traces; what keeps it from that is told in the entry."""
        energy = self.entry["energy"]
        if not traces:
            energy["told"].append(
                "no power was measured: this machine shows no sensor; a USB meter's file: --power-csv"
            )
        if self.saturation is None or standby is None:
            return
        for trace in traces:
            try:
                energy["measured"].append(energy_per_image(trace, self.saturation.window, standby))
            except ValueError as error:
                energy["told"].append(str(error))


def _empty_entry(subject: Subject, estimate: dict[str, Any]) -> dict[str, Any]:
    manifest = subject.manifest
    role = "rknn" if subject.kind.startswith("rknn") else "onnx"
    return {
        "name": manifest.name,
        "sha256": manifest.files[role].sha256,
        "precision": manifest.precision,
        "input_hw": list(manifest.input_hw),
        "classes": len(manifest.class_names),
        "backend": subject.kind,
        "backend_told": subject.told,
        "emulated_ms": subject.emulated_ms,
        "latency": None,
        "contexts": [],
        "offered": None,
        "sweep": [],
        "knee_per_s": None,
        "ablation": [],
        "field": [],
        "energy": {"measured": [], "told": []},
        "accuracy": accuracy_of(manifest, subject.kind),
        "estimate": estimate,
    }
