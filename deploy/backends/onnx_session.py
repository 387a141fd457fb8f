"""How an ONNX Runtime session is set up, for inference and for every comparison alike."""

from __future__ import annotations

from typing import Any


def session_options(threads: int = 0, *, exact: bool = False) -> Any:
    """Return options that compute a graph as it is written. threads: intra-operator; 0: every core.

    exact: keep the plain memory layout, whose sums come out closest to the vendor's simulator; a third slower.

    Integers in a graph stay what they are to the NPU, a rounding between float operations: ONNX Runtime's own fusion
    into integer convolutions would round the bias and the values before an activation too.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options
