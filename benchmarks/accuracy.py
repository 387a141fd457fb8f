"""Accuracy beside speed: what a bundle's manifest says about each of its forms, and which form was timed."""

from __future__ import annotations

from typing import Any

from deploy.manifest import Manifest

# The form of the manifest whose numbers a backend computes, the nearest first, and how near that is.
FORM_OF = {
    "onnx": (("onnx", "the form that was timed"),),
    "emulated": (("onnx", "the emulated NPU answers with ONNX Runtime's heads"),),
    "rknn-capi": (
        ("device", "measured on the device"),
        ("rknn_sim", "by the vendor's simulator: the nearest that was measured"),
        ("onnx", "by ONNX Runtime: no figure of the NPU or its simulator"),
    ),
}
FORM_OF["rknn-lite"] = FORM_OF["rknn-capi"]
TOLD = {
    "float": "float network before quantisation",
    "torch": "torch, as trained",
    "onnx": "ONNX file",
    "rknn_sim": "INT8, the vendor's simulator",
    "device": "INT8, on the device",
}


def accuracy_of(manifest: Manifest, kind: str) -> dict[str, Any]:
    """Return mAP per form (0 to 1) as the manifest states it, where from, and which form stands for what was timed.

    timed: None with a reason where the manifest has no figure for this backend: then the speed stands alone, and the
    report has to say so.
    """
    timed, how = None, "the manifest holds no accuracy of this form: the speed stands alone"
    for form, nearness in FORM_OF.get(kind, ()):
        if manifest.accuracy.get(form, {}).get("map50_95") is not None:
            timed, how = form, nearness
            break
    made = manifest.provenance
    return {
        "forms": {
            form: {"map50": scores.get("map50"), "map50_95": scores.get("map50_95"), "told": TOLD.get(form, form)}
            for form, scores in manifest.accuracy.items()
        },
        "timed_form": timed,
        "timed_form_told": how,
        "data": manifest.accuracy_data,
        "source": f"manifest, {made.created}, commit {made.commit}" if made else "manifest, without provenance",
    }
