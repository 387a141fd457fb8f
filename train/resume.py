"""Which run may continue which: the recipe kept in a checkpoint against the one that was given."""

from __future__ import annotations

import json
from typing import Any

# What may change between two legs of one run: where and how it runs, how long, what follows, and the two remedies for a
# loss that is not finite. Anything else would make the second leg another experiment under the first one's name.
FREE = {
    "name",
    "data.root",
    "data.name",
    "data.terms",
    "data.workers",
    "data.cache_mb",
    "data.strict",
    "train.epochs",
    "train.device",
    "train.precision",
    "train.learning_rate",
    "train.validate_every",
    "train.patience",
    "model.weights",
    "quantize.checkpoint",
    "quantize.learning_rate",
    "teacher.checkpoint",
    "teacher.weights",
    "distill.cache",
}


def check_same_run(kept: dict[str, Any], wanted: dict[str, Any], origin: str) -> None:
    """Raise ValueError where a checkpoint belongs to another run.

    kept: the checkpoint. wanted: the run's `describe`: size, class_names, image_size, and the recipe as JSON.
    """
    for key in ("size", "class_names", "image_size"):
        if kept[key] != wanted[key]:
            _refuse(origin, key, kept[key], wanted[key])
    old_teacher, new_teacher = ((side.get("teacher") or {}).get("sha256") for side in (kept, wanted))
    if "teacher" in kept and "teacher" in wanted and old_teacher != new_teacher:
        raise ValueError(
            f"{origin}: was taught by another teacher (SHA-256 {str(old_teacher)[:12]}, now {str(new_teacher)[:12]}); "
            "give the teacher's own checkpoint again, or choose another --out"
        )
    if "recipe" not in kept or "recipe" not in wanted:
        return
    old, new = flat_recipe(kept["recipe"]), flat_recipe(wanted["recipe"])
    for key in sorted(old.keys() & new.keys()):
        if old[key] != new[key] and key not in FREE and not key.startswith("export."):
            _refuse(origin, key, old[key], new[key])


def _refuse(origin: str, key: str, kept: object, wanted: object) -> None:
    raise ValueError(
        f"{origin}: was trained with {key} {kept!r}, the recipe says {wanted!r}; resume with the same recipe, or "
        "choose another --out"
    )


def flat_recipe(text: str) -> dict[str, Any]:
    """Return {"section.key": value} of a recipe as JSON."""
    return _flat(json.loads(text))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"section.key": value} of nested dicts."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
