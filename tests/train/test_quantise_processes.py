"""Quantisation-aware training in two processes: one network, one teacher, the ranges of one process, one writer."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantize.fake_quant import FakeQuantizer
from train.quantise_processes import average, share_ranges

from .quantise_distributed_run import WAYS, quantise

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(pictures, tmp_path_factory):
    """What each of two processes has, and what one alone has."""
    out = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    script = [str(ROOT / "tests" / "train" / "quantise_distributed_run.py"), str(out / "two")]
    done = subprocess.run([*command, *script], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    both = [torch.load(out / "two" / f"process{rank}.pt") for rank in (0, 1)]
    # torchrun gives each process one thread. Another number sums in another order, and Adam's first steps follow the
    # sign of gradients that are next to nothing: with two threads here the teachers moved apart by a third.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return both, {way: quantise(way, pictures, out / "one") for way in WAYS}
    finally:
        torch.set_num_threads(threads)


def distance(a, b):
    """Return the distance of two dicts of tensors, relative to the second."""
    one, two = (torch.cat([v[name].flatten().double() for name in sorted(b)]) for v in (a, b))
    return float((one - two).norm() / two.norm())


@pytest.mark.parametrize("way", WAYS)
def test_both_processes_end_with_the_same(found, way):
    (first, second), _ = found
    for part in ("content", "mine", "teacher"):
        ours, theirs = first[way][part], second[way][part]
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), (part, name)


@pytest.mark.parametrize("way", ["calibrated", "observed"])
def test_ranges_are_those_of_whole_batches(found, way):
    (first, _), alone = found
    ends = [{n: v for n, v in f[way]["mine"].items() if n.endswith((".low", ".high"))} for f in (first, alone)]
    assert len(ends[0]) > 100
    # Calibration differs by the order of sums alone, training by two steps of the weights besides.
    near = 1e-4 if way == "calibrated" else 2e-3
    assert distance(*ends) < near
    scales = [{n: v for n, v in f[way]["mine"].items() if n.endswith("_quantiser.scale")} for f in (first, alone)]
    assert distance(*scales) < near


def test_the_losses_are_those_of_one_process(found):
    (first, _), alone = found
    for way in ("observed", "tuned"):
        both, one = first[way]["losses"], alone[way]["losses"]
        assert len(both) == len(one) == WAYS[way]["epochs"]
        assert both[0] == pytest.approx(one[0], rel=0.02)
    # One of the teacher's steps later: its optimiser also follows gradients so small that their sign is chance.
    assert both[1] == pytest.approx(one[1], rel=0.2)
    assert {"loss/cwd", "loss/tuning_query", "loss/tuning_teacher_task"} <= both[1].keys()


def test_the_teacher_moves_as_that_of_one_process(found):
    (first, _), alone = found
    moves = []
    for one in (first["tuned"], alone["tuned"]):
        moves.append({n: p - one["before"][n.removeprefix("model.")] for n, p in one["teacher"].items()})
    a, b = (torch.cat([m.detach().flatten() for m in move.values()]) for move in moves)
    assert min(float(a.abs().max()), float(b.abs().max())) > 1e-6
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.8


def test_alone_nothing_is_asked_of_others():
    quantiser = FakeQuantizer()
    quantiser.train()(torch.rand(4))
    before = quantiser.scale.clone()
    share_ranges([quantiser])
    assert torch.equal(before, quantiser.scale)
    gradients = {"a": torch.rand(3)}
    assert average(gradients) is gradients
