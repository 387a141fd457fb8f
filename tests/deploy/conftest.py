"""One small network with learnt integers and its file, for all tests of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deploy.convert.onnx_export import export_onnx
from deploy.convert.quantised_onnx import IntegerWeights
from quantize.export_form import ExportForm, export_form
from quantize.insert import FakeQuantised
from tests.deploy.small_detector import HW, SmallDetector, learnt_network
from train.prove import integers_for_file


@pytest.fixture(scope="session")
def learnt() -> FakeQuantised:
    torch.manual_seed(0)
    return learnt_network(SmallDetector())


@pytest.fixture(scope="session")
def learnt_form(learnt) -> ExportForm:
    return export_form(learnt)


@pytest.fixture(scope="session")
def learnt_weights(learnt_form) -> dict[str, IntegerWeights]:
    return integers_for_file(learnt_form)


@pytest.fixture(scope="session")
def learnt_path(learnt_form, learnt_weights, tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("learnt") / "model.onnx"
    export_onnx(learnt_form.module, found, HW, integers=learnt_weights)
    return found
