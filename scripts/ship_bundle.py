"""Keep a finished run in the repository: its report in results/, its bundle in deploy/zoo/.

`python scripts/ship_bundle.py RUN --result FILE.json [--zoo NAME] [--weights]`. Copies what the board needs, and
nothing that may hold an image of the data (overlays, samples) or a path of this machine. `--weights` adds the
weights in half precision, to start other trainings from. Refuses a zoo of more than 30 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
LIMIT_MB = 30


def main() -> int:
    """Copy, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--result", required=True, metavar="FILE.json")
    parser.add_argument("--zoo", metavar="NAME")
    parser.add_argument("--weights", action="store_true")
    options = parser.parse_args()

    report = without_paths(json.loads((options.run / "report.json").read_text(encoding="utf-8")))
    result = ROOT / "results" / options.result
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {result.relative_to(ROOT)}")
    return ship(options.run, options.zoo, weights=options.weights) if options.zoo else 0


def ship(run: Path, name: str, *, weights: bool) -> int:
    """Replace deploy/zoo/NAME by the bundle of a run; returns 1 where the zoo has grown too big."""
    from deploy.manifest import ModelFile, load_manifest, sha256_of

    zoo, target = ROOT / "deploy" / "zoo", ROOT / "deploy" / "zoo" / name
    manifest = load_manifest(run)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pages = [name for name in ("layers.json", "card.md", "proof.md") if (run / name).is_file()]
    for file in (*(file.name for file in manifest.files.values()), *pages):
        shutil.copyfile(run / file, target / file)
    files = dict(manifest.files)
    if weights:
        _save_weights(run / "checkpoint.pt", target / "weights.safetensors")
        files["weights"] = ModelFile(name="weights.safetensors", sha256=sha256_of(target / "weights.safetensors"))
    manifest.model_copy(update={"files": files}).save(target)
    load_manifest(target)
    size_mb = sum(path.stat().st_size for path in zoo.rglob("*") if path.is_file()) / 1e6
    print(f"wrote {target.relative_to(ROOT)}; the zoo holds {size_mb:.1f} MB")
    if size_mb > LIMIT_MB:
        print(f"the zoo must stay below {LIMIT_MB} MB; export with --half-weights", file=sys.stderr)
        return 1
    return 0


def without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without what only this machine knows: folders, and the pictures that stay behind."""
    recipe = json.loads(json.dumps(report["recipe"]))
    recipe["data"]["root"] = Path(recipe["data"]["root"]).name
    recipe["model"]["weights"] = Path(recipe["model"]["weights"]).name
    recipe["quantize"]["checkpoint"] = Path(recipe["quantize"]["checkpoint"]).name
    return {**{k: v for k, v in report.items() if k != "overlays"}, "recipe": recipe}


def _save_weights(checkpoint: Path, path: Path) -> None:
    from safetensors.torch import save_file

    from train.checkpoint import load_checkpoint

    content = load_checkpoint(checkpoint)
    weights = content.get("float_model", content["model"])  # a start for other trainings is a float network
    kept = {k: v.half().contiguous() for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    save_file(kept, path)


if __name__ == "__main__":
    sys.exit(main())
