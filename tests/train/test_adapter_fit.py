"""The least-squares start of the adapters, against NumPy's solver and against chance."""

import numpy as np
import torch

from train.adapter_fit import fit_adapters
from train.dataset import Batch, pad_targets
from train.distilling import ask_directly, build_losses
from train.model import Yolov8
from train.recipe import Distill
from train.supervised import images_to_float
from train.teacher_cache import weights_digest
from train.teacher_student import channels_of


def test_adapters_start_where_least_squares_puts_them():
    torch.manual_seed(0)
    student, teacher = Yolov8("n", 2).train(), Yolov8("s", 2)
    none = np.zeros((0, 4), np.float32)
    batches = [
        Batch(torch.randint(0, 255, (4, 3, 96, 96), dtype=torch.uint8), pad_targets([none] * 4, [none[:, 0]] * 4))
        for _ in range(2)
    ]
    losses = build_losses(Distill(losses=["magnitude", "cwd"]), channels_of(student), channels_of(teacher))
    before = weights_digest(student)
    ask = ask_directly(teacher)
    fit_adapters(losses, student, ask, batches, None)
    assert weights_digest(student) == before, "the student and its BatchNorm statistics stay as they are"
    with torch.no_grad():
        x = torch.cat([student.features(images_to_float(b.images))[8] for b in batches])
        y = torch.cat([ask(b).maps[8] for b in batches])
        for loss in losses.values():
            fitted = loss.adapters.levels["8"](x)
            left = float((fitted - y).square().mean())
            rows = x.movedim(1, -1).flatten(0, -2).double().numpy()
            rows = np.concatenate([rows, np.ones((len(rows), 1))], 1)
            wanted = y.movedim(1, -1).flatten(0, -2).double().numpy()
            best = float(np.square(rows @ np.linalg.lstsq(rows, wanted, rcond=None)[0] - wanted).mean())
            assert best <= left <= 1.05 * best + 1e-6
            assert left < float(y.var(dim=(0, 2, 3)).mean())


def test_nothing_to_fit_where_channels_agree():
    model = Yolov8("n", 2)
    losses = build_losses(Distill(losses=["magnitude"]), channels_of(model), channels_of(model))
    fit_adapters(losses, model, ask_directly(model), iter(()), None)
