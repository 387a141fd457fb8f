"""Stand in for the vendor's `rknnlite.api`: its Python surface as of 2.5.0, its silence, its lines, its garbage.

The surface is that of the wheel's own rknn_lite.py. What it computes is the C stand-in's network, in float32.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest

from tests.deploy import fake_npu as npu


class Cycle:
    """What an inference leaves behind: it holds itself, so only the garbage collector frees it."""

    alive = 0

    def __init__(self) -> None:
        self.me = self
        Cycle.alive += 1

    def __del__(self) -> None:
        Cycle.alive -= 1


class RKNNLite:
    NPU_CORE_AUTO = 0
    NPU_CORE_0 = 1
    NPU_CORE_1 = 2
    NPU_CORE_2 = 4
    NPU_CORE_0_1 = 3
    NPU_CORE_0_1_2 = 7
    NPU_CORE_ALL = 0xFFFF

    # What the test sets: a call's name -> its answer, or an exception; and what becomes of the outputs.
    answers: dict[str, object] = {}  # noqa: RUF012
    change: Callable[[list[np.ndarray]], object] = staticmethod(lambda outputs: outputs)
    outputs = npu.outputs()
    calls: list[tuple] = []  # noqa: RUF012

    def __init__(self, verbose=False, verbose_file=None):
        os.write(1, b"W rknn-toolkit-lite2 version: 2.5.0\n")
        self._answer("__init__", verbose, verbose_file)
        self.loaded = self.ready = False

    def _answer(self, call, *arguments, default=None):
        RKNNLite.calls.append((call, *arguments))
        answer = RKNNLite.answers.get(call, default)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def load_rknn(self, path, key_path=None):
        self.loaded = os.path.exists(path)
        return self._answer("load_rknn", path, default=0 if self.loaded else -1)

    def init_runtime(self, target=None, device_id=None, async_mode=False, core_mask=NPU_CORE_AUTO):
        os.write(1, b"I RKNN: RKNN Runtime Information, librknnrt version: 2.5.0\n")
        code = self._answer("init_runtime", target, core_mask, default=0 if self.loaded else -1)
        self.ready = code == 0
        return code

    def inference(
        self,
        inputs,
        data_type=None,
        data_format=None,
        inputs_pass_through=None,
        get_frame_id=False,
        reuse_outputs=False,
    ):
        (image,) = inputs
        answer = self._answer("inference", image.shape, str(image.dtype), image.flags.c_contiguous, default=self)
        if answer is not self or not self.ready or image.ndim != 4:
            return None
        Cycle()
        found = RKNNLite.outputs
        return RKNNLite.change(npu.real(npu.expected(image, found), found))

    def get_sdk_version(self):
        return "2.5.0" if self.ready else None

    def list_devices(self):
        return [], []

    def list_support_target_platform(self, rknn_model=None):
        return {}

    def release(self):
        self._answer("release")
        self.ready = False


def install(monkeypatch: pytest.MonkeyPatch) -> type[RKNNLite]:
    """Put the stand-in where `from rknnlite.api import RKNNLite` finds it, as it was made."""
    package, api = types.ModuleType("rknnlite"), types.ModuleType("rknnlite.api")
    api.RKNNLite = RKNNLite  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rknnlite", package)
    monkeypatch.setitem(sys.modules, "rknnlite.api", api)
    RKNNLite.answers, RKNNLite.calls, RKNNLite.outputs = {}, [], npu.outputs()
    RKNNLite.change = staticmethod(lambda outputs: outputs)
    return RKNNLite
