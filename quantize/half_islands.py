"""Where a network with islands of floating point is float16 on the NPU, rounded as the NPU's compiler has it rounded.

A layer is float16 where its weights are, and where it reads values that lie on no grid: the compiler has no mixed ones.
Such a layer's inputs and weights are rounded to float16, bias and sums are not, its result is, and once more behind the
activation that is fused with it. So says the vendor's simulator, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .export_form import Rounding
from .insert import ACTIVATION_FUNCTIONS, ACTIVATIONS, PRODUCTS, SUMS, _replace


def rounded_to_half(x: Tensor) -> Tensor:
    """Return the nearest float16 values, same shape and dtype as x."""
    return x.half().to(x.dtype)


def with_halves(module: fx.GraphModule, quantised: Collection[str]) -> fx.GraphModule:
    """Return a copy of a deployed form's network that rounds to float16 where the NPU does.

    quantised: names of the layers with integer weights. Without islands the copy computes what the network computes.
    """
    new = _folded(copy.deepcopy(module).eval())
    on_grid: set[fx.Node] = set()
    for node in list(new.graph.nodes):
        part = new.get_submodule(str(node.target)) if node.op == "call_module" else None
        is_layer = isinstance(part, (nn.Conv2d, nn.Linear))
        if isinstance(part, Rounding):
            on_grid.add(node)
        elif is_layer or _is_sum(node):
            fine = all(source in on_grid for source in node.all_input_nodes)
            if fine and (not is_layer or str(node.target) in quantised):
                continue
            for source in node.all_input_nodes:
                with new.graph.inserting_before(node):
                    node.replace_input_with(source, new.graph.call_function(rounded_to_half, (source,)))
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                part.weight = nn.Parameter(rounded_to_half(part.weight.detach()), requires_grad=False)
            end = _end_of(new, node)
            _round_behind(new, node)
            if end is not node:
                _round_behind(new, end)
        elif _moves_values(new, node) and all(source in on_grid for source in node.all_input_nodes):
            on_grid.add(node)
    new.graph.lint()
    new.recompile()
    return new


def _folded(module: fx.GraphModule) -> fx.GraphModule:
    """Take each island's BatchNorm into its convolution, as the exporter does; in place."""
    for node in list(module.graph.nodes):
        norm = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        before = node.all_input_nodes[0] if isinstance(norm, nn.BatchNorm2d) else None
        if before is None or before.op != "call_module" or len(before.users) != 1:
            continue
        layer = module.get_submodule(str(before.target))
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            _replace(module, str(before.target), fuse_conv_bn_eval(layer, norm))
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
    module.recompile()
    return module


def _round_behind(module: fx.GraphModule, node: fx.Node) -> None:
    with module.graph.inserting_after(node):
        rounded = module.graph.call_function(rounded_to_half, (node,))
    node.replace_all_uses_with(rounded)
    rounded.args = (node,)  # its own input was replaced as well


def _end_of(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Return the activation that is fused with an operation, itself where none is."""
    users = list(node.users)
    return users[0] if len(users) == 1 and _is_activation(module, users[0]) else node


def _moves_values(module: fx.GraphModule, node: fx.Node) -> bool:
    return bool(node.all_input_nodes) and node.op != "output" and not _is_activation(module, node)


def _is_sum(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (*SUMS, *PRODUCTS)


def _is_activation(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), ACTIVATIONS)
    return node.op == "call_function" and node.target in ACTIVATION_FUNCTIONS
