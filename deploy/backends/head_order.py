"""Which of a runtime's outputs is which of the manifest's: by name, by order, or by shape, never by guess."""

from __future__ import annotations

from collections.abc import Sequence

from ..manifest import Manifest

Shape = tuple[int, ...]


def head_shapes(manifest: Manifest) -> list[Shape]:
    """Return the shapes of the outputs that are read, for one image, in the manifest's order."""
    return manifest.output_shapes


def head_names(manifest: Manifest) -> list[str]:
    """Return the names of the outputs that are read, in the manifest's order."""
    return manifest.output_names


def head_order(shapes: Sequence[Shape], manifest: Manifest, names: Sequence[str] = ()) -> list[int]:
    """Return, for each of the manifest's outputs, the index of the runtime's output that it is.

    shapes: of the runtime's outputs, batch 1; there may be more than are read. names: of the same, where the runtime
    tells them. Names decide if all of the manifest's are there; else the order that the manifest gives, if all shapes
    fit it; else the shapes, if no two outputs share one. Raises ValueError where none of this says which is which.
    """
    wanted, got = head_shapes(manifest), [tuple(shape) for shape in shapes]
    wanted_names = head_names(manifest)
    told = manifest.outputs or wanted_names
    order: list[int] | None = None
    if len(got) != len(told):
        order = None  # another model than the manifest's
    elif set(wanted_names) <= set(names):
        order = [list(names).index(name) for name in wanted_names]
    else:
        by_place = [told.index(name) for name in wanted_names]
        if [got[index] for index in by_place] == wanted:
            order = by_place
        elif len(set(wanted)) == len(wanted) and all(got.count(shape) == 1 for shape in wanted):
            order = [got.index(shape) for shape in wanted]
    if order is None or [got[index] for index in order] != wanted:
        called = f" ({', '.join(names)})" if names else ""
        among = f" among {len(told)} outputs" if len(told) > len(wanted) else ""
        raise ValueError(
            f"outputs of the model must be {wanted} ({', '.join(wanted_names)}){among} by the manifest, "
            f"got {got}{called}; export the bundle again"
        )
    return order
