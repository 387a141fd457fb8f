"""The recipe's data section into annotated images: read one split, or draw it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy.annotations import AnnotationSet, read_annotations

from .recipe import Data, Recipe, Split

Progress = Callable[[int, int], None]


def load_split(
    recipe: Recipe, split: str, *, strict: bool | None = None, progress: Progress | None = None
) -> AnnotationSet:
    """Read one split ("train" or "val") of the recipe's data.

    strict: overrides `data.strict`. Raises FileNotFoundError for a missing root or annotation file, ValueError for the
    first annotation that cannot be used (where strict), for a split without images and for an unknown split.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {split!r}")
    data, part = recipe.data, recipe.data.train if split == "train" else recipe.data.val
    if data.format == "procedural":
        found = _draw(data, part, split, recipe.train.image_size, progress)
    else:
        found = _read(data, part, split)
    stop = data.strict if strict is None else strict
    if stop and found.fatal:
        first = found.fatal[0]
        more = f" (and {len(found.fatal) - 1} more)" if len(found.fatal) > 1 else ""
        raise ValueError(
            f"{first}{more}; mend the annotations (`rsedge data` lists every problem), or pass "
            "--set data.strict=false to leave these out"
        )
    if stop and not found.images:
        raise ValueError(f"data.{split} holds no usable image; run `rsedge data` on the recipe to see why")
    return found


def load_both(recipe: Recipe, progress: Progress | None = None) -> tuple[AnnotationSet, AnnotationSet]:
    """Read the train and the val split. Raises ValueError where their classes differ."""
    train, val = load_split(recipe, "train", progress=progress), load_split(recipe, "val", progress=progress)
    for split, found in (("train", train), ("val", val)):
        if not any(len(image.class_id) for image in found.images):
            raise ValueError(
                f"data.{split} holds no box: nothing to learn or to score; look at `rsedge data` on the recipe"
            )
    if train.class_names != val.class_names:
        raise ValueError(
            f"the splits must have the same classes, got train {train.class_names}, val {val.class_names}; "
            "list them in data.class_names"
        )
    return train, val


def _read(data: Data, part: Split, split: str) -> AnnotationSet:
    root = Path(data.root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root {root}: no such folder; pass --set data.root=PATH")
    annotations, images = root / part.annotations, root / part.images
    if not annotations.exists():
        raise FileNotFoundError(f"data.{split}.annotations {annotations}: not there; check data.root and the recipe")
    if not images.is_dir():
        raise FileNotFoundError(f"data.{split}.images {images}: no such folder; check data.root and the recipe")
    return read_annotations(
        data.format,
        annotations=annotations,
        images=images,
        class_names=data.class_names,
        list_file=root / part.list_file if part.list_file else None,
    )


def _draw(data: Data, part: Split, split: str, size: int, progress: Progress | None) -> AnnotationSet:
    from deploy.procedural import write_dataset

    # Different seeds for the two splits, far apart: no scene of one may appear in the other.
    seed = data.seed * 2_000_003 + (1_000_000_007 if split == "val" else 0)
    folder = Path(data.root) / f"{split}_{size}px_seed{data.seed}_{part.count}"
    write_dataset(
        folder, part.count, seed=seed, size_hw=(size, size), split=split, objects=data.objects, progress=progress
    )
    return read_annotations("coco", annotations=folder / "annotations" / f"{split}.json", images=folder / "images")
