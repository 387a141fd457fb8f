"""What several processes must agree on in quantisation-aware training: ranges, and the teacher's gradients.

Each process sees its own share of every batch. The trained network is kept equal by its averaged gradients; what moves
without gradients (observed ranges) or beside the loop (the teacher) has to be kept equal here. Alone, nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed as dist

from quantize.bilevel import Parameters
from quantize.fake_quant import FakeQuantizer


def is_first() -> bool:
    """Return whether this is the process that writes files and scores."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


@torch.no_grad()
def share_ranges(quantisers: Iterable[FakeQuantizer]) -> None:
    """Give each observer the smallest and the largest end that it has in any process.

    After every batch this is what one process finds in the whole batch, to the bit: a moving average grows with what it
    is fed. Percentiles of shares are not those of the whole; theirs come out a little wider. Every process must call
    it with the same quantisers, each of one range, in the same order.
    """
    quantisers = list(quantisers)
    if not dist.is_initialized() or not quantisers:
        return
    ends = torch.cat([end.flatten() for q in quantisers for end in (q.low, -q.high)])
    dist.all_reduce(ends, dist.ReduceOp.MIN)
    parts = iter(ends.split([end.numel() for q in quantisers for end in (q.low, q.high)]))
    for quantiser in quantisers:
        low, high = next(parts), -next(parts)
        quantiser.take_ends(low.view_as(quantiser.low), high.view_as(quantiser.high))


@torch.no_grad()
def average(gradients: Parameters) -> Parameters:
    """Return the mean of gradients over all processes, equal to the bit in each. Every process must call it."""
    if not dist.is_initialized():
        return gradients
    flat = torch.cat([g.flatten() for g in gradients.values()])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([g.numel() for g in gradients.values()])
    return {name: part.view_as(g) for (name, g), part in zip(gradients.items(), parts, strict=True)}
