"""`rsedge bench --compare`: what changed between two reports beyond what chance explains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .report import read_report
from .statistics_of_time import Quantile, Verdict, noise_of, verdict_of
from .subject import told_cores

# What makes two machines one and the same to a comparison.
MACHINE = ("machine", "cpu", "board")
# What may differ and has to be told, because it explains a change.
TOLD = ("kernel", "versions", "commit", "omp_num_threads")
HOTTER_C = 10.0


@dataclass(frozen=True)
class Change:
    """One quantity in both reports, with the direction in which it gets better."""

    bundle: str
    quantity: str
    unit: str
    old: Quantile
    new: Quantile
    less_is_better: bool

    @property
    def verdict(self) -> Verdict:
        """Whether the new one lies off beyond noise."""
        return verdict_of(self.old, self.new)

    @property
    def word(self) -> str:
        """The verdict in words."""
        verdict = self.verdict
        if verdict == "unknown":
            return "too few values"
        if verdict == "same":
            return "within noise"
        return "better" if (verdict == "lower") == self.less_is_better else "WORSE"

    def to_json(self) -> dict[str, Any]:
        """Return what the document holds."""
        return {
            "bundle": self.bundle,
            "quantity": self.quantity,
            "unit": self.unit,
            "old": self.old.to_json(),
            "new": self.new.to_json(),
            "change": self.new.value / self.old.value - 1 if self.old.value else None,
            "noise": noise_of(self.old, self.new),
            "verdict": self.word,
        }


def compare(old: dict[str, Any], new: dict[str, Any], *, force: bool = False) -> dict[str, Any]:
    """Compare two documents of `rsedge bench`.

    Bundles are matched by name and backend, measurements by what was asked of them. force: go on though the machines
    differ. Returns the document that the command prints. Raises ValueError for different machines, and where the two
    have nothing in common.
    """
    told = _machines(old, new, force)
    for name in TOLD:
        before, after = old["provenance"].get(name), new["provenance"].get(name)
        if before != after:
            told.append(f"{name}: {_difference(before, after)}")
    told += _conditions(old, new)
    pairs, skipped = _matched(old, new)
    if not pairs:
        raise ValueError(
            f"the reports have no bundle on the same backend in common (old: {_names(old)}; new: {_names(new)}); "
            "measure the same bundle with the same --backend"
        )
    changes = [change for a, b in pairs for change in _changes(a, b)]
    for a, b in pairs:
        if a["sha256"] != b["sha256"]:
            told.append(f"{a['name']}: another model file under the same name")
        if a["emulated_ms"] != b["emulated_ms"]:
            told.append(
                f"{a['name']}: another latency of the emulated core, {a['emulated_ms']} and {b['emulated_ms']} ms"
            )
    if old["method"]["images"] != new["method"]["images"]:
        told.append(f"images: {old['method']['images']}; {new['method']['images']}")
    verdicts = [change.word for change in changes]
    return {
        "schema": "rsedge bench comparison",
        "schema_version": 1,
        "old": {"created": old["provenance"]["created"], "commit": old["provenance"]["commit"]},
        "new": {"created": new["provenance"]["created"], "commit": new["provenance"]["commit"]},
        "confidence": new["method"]["confidence"],
        "better": verdicts.count("better"),
        "worse": verdicts.count("WORSE"),
        "compared": len(changes),
        "changes": [change.to_json() for change in changes],
        "different": told,
        "left_out": skipped,
    }


def run_compare(old: Path, new: Path, *, force: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Read and compare two report files, print a table, return the document. Raises ValueError or OSError."""
    document = compare(read_report(old), read_report(new), force=force)
    console = console or Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("bundle", "quantity", "old", "new", "change", "noise", "verdict"):
        table.add_column(name, justify="right" if name in ("old", "new", "change", "noise") else "left")
    for row in document["changes"]:
        before, after, noise = row["old"]["value"], row["new"]["value"], row["noise"]
        table.add_row(
            row["bundle"],
            f"{row['quantity']}, {row['unit']}",
            f"{before:.4g}",
            f"{after:.4g}",
            "-" if row["change"] is None else f"{100 * row['change']:+.1f} %",
            "?" if noise is None or not before else f"± {100 * noise / before:.1f} %",
            row["verdict"],
        )
    console.print(table)
    for line in document["different"]:
        console.print(f"different: {line}", style="yellow", soft_wrap=True, markup=False)
    for line in document["left_out"]:
        console.print(f"left out: {line}", style="dim", soft_wrap=True, markup=False)
    console.print(
        f"{document['compared']} compared: {document['better']} better, {document['worse']} worse beyond noise; noise "
        f"is that of one run each ({100 * document['confidence']:.0f} %), not of another day"
    )
    return document


def _machines(old: dict[str, Any], new: dict[str, Any], force: bool) -> list[str]:
    different = [
        f"{name}: {old['provenance'].get(name)} and {new['provenance'].get(name)}"
        for name in MACHINE
        if old["provenance"].get(name) != new["provenance"].get(name)
    ]
    if different and not force:
        raise ValueError(
            f"the reports are of different machines ({'; '.join(different)}): a change of speed would say nothing; "
            "measure both on one machine, or compare nevertheless with --force"
        )
    return different


def _conditions(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    told = []
    before, after = ((d["conditions"].get("before") or {}).get("governors", {}) for d in (old, new))
    if before != after:
        told.append(f"governors: {_difference(before, after)}")
    heat = [
        max((d["conditions"].get("during") or {}).get("hottest", {}).get("temperatures_c", {}).values(), default=None)
        for d in (old, new)
    ]
    if heat[0] is not None and heat[1] is not None and abs(heat[1] - heat[0]) >= HOTTER_C:
        told.append(f"temperature: {heat[0]:.0f} and {heat[1]:.0f} °C at the hottest")
    for name, document in (("old", old), ("new", new)):
        slow = document["conditions"].get("throttling") or {}
        if slow.get("seen"):
            told.append(f"the {name} run was throttled ({'; '.join(slow['told'])})")
        if document["stopped_early"]:
            told.append(f"the {name} run was stopped early")
    return told


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        return ", ".join(f"{name} {before.get(name, 'none')} and {after.get(name, 'none')}" for name in names)
    return f"{before} and {after}"


def _where(cores: list[int]) -> str:
    """Return where contexts lie, unless they are dealt out over the cores as ever: then their number says it."""
    cycle = max(cores) + 1
    usual = min(cores) >= 0 and cores == [i % cycle for i in range(len(cores))]
    return "" if usual else f" on cores {told_cores(cores)}"


def _matched(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], list[str]]:
    theirs = {(entry["name"], entry["backend"]): entry for entry in new["bundles"]}
    pairs, skipped = [], []
    for entry in old["bundles"]:
        match = theirs.pop((entry["name"], entry["backend"]), None)
        if match is None:
            skipped.append(f"{entry['name']} on {entry['backend']} is in the old report only")
        else:
            pairs.append((entry, match))
    skipped += [f"{name} on {backend} is in the new report only" for name, backend in theirs]
    return pairs, skipped


def _names(document: dict[str, Any]) -> str:
    return ", ".join(f"{entry['name']} on {entry['backend']}" for entry in document["bundles"]) or "none"


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Yield every quantity that both hold under the same conditions, the main ones first."""
    name = old["name"]

    def of(before: dict[str, Any], after: dict[str, Any], quantity: str, unit: str, less: bool) -> Change:
        return Change(name, quantity, unit, Quantile.from_json(before), Quantile.from_json(after), less)

    if old["latency"] and new["latency"]:
        for stage, spread in old["latency"]["stages"].items():
            other = new["latency"]["stages"].get(stage)
            for q in ("p50", "p99") if stage == "total" else ("p50",):
                if other and spread[q]["value"] > 0:
                    yield of(spread[q], other[q], f"{stage} {q}", "ms", True)
    rows = {(tuple(row["cores"]), row["postprocess_batch"]): row for row in new["contexts"]}
    for row in old["contexts"]:
        match = rows.get((tuple(row["cores"]), row["postprocess_batch"]))
        if match:
            batch = f", {row['postprocess_batch']} decoded per call" if row["postprocess_batch"] > 1 else ""
            told = f"{row['contexts']} contexts{_where(row['cores'])}{batch}"
            yield of(row["images_per_s"], match["images_per_s"], told, "images/s", False)
    # A sweep's rates are shares of what each run could do: only the fixed rate is the same question twice.
    a, b = old["offered"], new["offered"]
    if a and b and abs(a["offered_per_s"] - b["offered_per_s"]) < 0.01 * a["offered_per_s"]:
        for q in ("p50", "p99"):
            yield of(a["latency"][q], b["latency"][q], f"{q} at {a['offered_per_s']:g}/s offered", "ms", True)
    duels = {(d["measure"], d["ours"], d["other"]): d for key in ("ablation", "field") for d in new[key]}
    for key in ("ablation", "field"):
        for d in old[key]:
            match = duels.get((d["measure"], d["ours"], d["other"]))
            if match:
                yield of(d["gain"], match["gain"], f"{d['measure']} against {d['other']}", "times", False)
