"""Stand in for the vendor's `rknn.api` in a child process; FAKE_RKNN chooses how it fails.

Copied to `rknn/api.py` in a folder on PYTHONPATH, which goes before the installed toolkit.
"""

import json
import os
import time
from pathlib import Path

import numpy as np

MODE = os.environ.get("FAKE_RKNN", "")
SCALE, ZERO = 0.25, -28
ROW = "{i}    {t}      {d}     {g}    (1,3,64,64)      (1,16,32,32)       0/64/64     14      {n}"

if MODE == "missing":
    raise ImportError("libGL.so.1: cannot open shared object file")


class RKNN:
    def __init__(self, verbose=False):
        pass

    def config(self, **settings):
        return 0

    def load_onnx(self, model):
        return -1 if MODE == "load -1" else 0

    def hybrid_quantization_step1(self, dataset):
        if pid_file := os.environ.get("FAKE_RKNN_PID"):
            Path(pid_file + ".part").write_text(str(os.getpid()))
            os.replace(pid_file + ".part", pid_file)
        if MODE == "none":
            return None
        if MODE == "raise":
            raise ValueError(
                "Traceback (most recent call last):\n  File 'x.py'\nValueError: The input shape is wrong!\n"
            )
        if MODE == "abort":
            os.abort()
        if MODE == "hang":
            time.sleep(60)
        names = json.loads(Path("job.json").read_text())["outputs"]
        entry = {"qtype": "asym", "dtype": "int8", "scale": [SCALE], "zero_point": [ZERO]}
        tensors = {f"{name}_int8": entry for name in names}
        if MODE == "scale lost":
            del tensors["class_16_int8"]
            tensors["box_32_int8"] = {**entry, "dtype": "float32"}
        for suffix in (".model", ".data"):
            Path(f"model{suffix}").write_bytes(b"x")
        Path("model.quantization.cfg").write_text(json.dumps({"quantize_parameters": tensors}))
        return 0

    def hybrid_quantization_step2(self, model, data, config):
        # The vendor's library writes to the file descriptor, past Python's buffers.
        os.write(1, self._log().encode())
        return 0

    def _log(self):
        if MODE == "lowering":
            return "D RKNN: [10:00:00.000] No lowering found for op: Foo\n" + table()
        if MODE == "target":
            return "E RKNN: [10:00:00.000] Unkown op target: 0\n" + table()
        if MODE == "no table":
            return "I rknn building done.\n"
        if MODE == "float16":
            return table(dtype="FLOAT16")
        if MODE == "cpu":
            return table(target="CPU")
        if MODE == "differ" and Path.cwd().name == "compile1":
            return table(name="Conv:other")
        return table()

    def build(self, do_quantization, dataset=None):
        return self.hybrid_quantization_step2("", "", "")

    def export_rknn(self, path):
        if MODE != "no file":
            Path(path).write_bytes(b"built")
        return 0

    def init_runtime(self):
        return 0

    def inference(self, inputs, data_format):
        if MODE == "no outputs":
            return None
        job = json.loads(Path("job.json").read_text())
        first = int(inputs[0][0, 0, 0, 0])
        step = 0.1 if MODE == "off grid" else 0.0
        return [
            np.full(tuple(np.load(path, mmap_mode="r").shape), (first - ZERO) * SCALE + step, np.float32)[:1]
            for path in job["heads"].values()
        ]


def table(dtype="INT8", target="NPU", name="Conv:/a/Conv"):
    lines = [
        "Network Layer Information Table",
        "ID   OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName",
        ROW.format(i=0, t="InputOperator", d="INT8", g="CPU", n="InputOperator:images"),
        ROW.format(i=1, t="ConvExSwish", d=dtype, g=target, n=name),
        "-" * 40,
        "Total Internal Memory Size: 44KB",
        "Total Weight Memory Size: 45.625KB",
    ]
    return "".join(f"D RKNN: [10:00:00.000] {line}\n" for line in lines)
