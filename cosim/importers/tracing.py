"""Turns a torch module into a graph of pure operations, each in the one form that the export understands.

The module is copied to float32 in evaluation mode, and traced to a torch.fx graph. The graph is then rewritten without
in-place operations and without operations that have no effect in evaluation, and with flatten and pooling in place of
reshapes and means.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from cosim.errors import NetworkError
from cosim.importers.affine import arithmetic_as_affine, norm_as_affine
from cosim.network.channel_affine import ChannelAffine

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# Names of in-place functions without their in-place form. Methods lose their last "_".
_PURE: dict[str, Callable[..., Tensor]] = {
    "iadd": operator.add,
    "relu_": torch.relu,
    "leaky_relu_": F.leaky_relu,
}
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
_VIEWS = ("contiguous", "flatten", "reshape", "view")  # their results may share memory with their inputs
_ENDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(1),
    "log_softmax": lambda logits: logits.log_softmax(1),
}


@dataclass(frozen=True)
class Trace:
    """A traced module.

    Attributes:
        graph: its operations. The graph's `meta` lists nodes at the end that were left out under `left_out`, since they
            change no decision.
        given: (n, classes), the result of the module itself for the images with which it was traced.
        ending: the function that was left out at the end; `ending(graph(images))` should equal `given`.
    """

    graph: fx.GraphModule
    given: Tensor
    ending: Callable[[Tensor], Tensor]


def trace(module: nn.Module, images: Tensor) -> Trace:
    """The graph of a copy of a module, and the module's result for some images.

    Raises:
        NetworkError: the module cannot be traced or run, gives no logits, or contains something that is not supported.
    """
    copied = _copy(module)
    try:
        # A GraphModule has been traced already, and tracing it again would rename its nodes.
        graph = copied if isinstance(copied, fx.GraphModule) else fx.symbolic_trace(copied)
    except Exception as error:  # tracing runs the module's own code, which may raise anything
        raise NetworkError(
            f"{type(module).__name__} cannot be traced ({error}): remove control flow that depends on tensors from "
            "forward"
        ) from error
    given = _run(copied, images)  # before the rewriting, which changes modules that graph and copy share
    return Trace(graph, given, _rewrite(graph))


def called(node: fx.Node) -> str:
    """How a message names a node: the path of its module, or its name and the path of the module that it is in."""
    if node.op == "call_module":
        return repr(node.target)
    inside = [*node.meta.get("nn_module_stack", {})]
    return f"{node.name!r} in {inside[-1]!r}" if inside else repr(node.name)


def function_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    return getattr(node.target, "__name__", str(node.target))


def _copy(module: nn.Module) -> nn.Module:
    """A copy in float32 and in evaluation mode, after a check of all numbers."""
    for what, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for key, value in tensors:
            if nn.parameter.is_lazy(value):
                raise NetworkError(f"{what} {key!r} is not initialized: run the module once, and then train it")
            if value.device.type != "cpu":
                raise NetworkError(f"{what} {key!r} is on {value.device}, expected cpu: quantize module.cpu()")
            if not torch.isfinite(value).all():
                raise NetworkError(f"{what} {key!r} holds NaN or infinite values: train the module again")
    try:
        return copy.deepcopy(module).eval().float()
    except (RuntimeError, TypeError) as error:
        raise NetworkError(
            f"{type(module).__name__} cannot be copied ({error}): hold its tensors as parameters or buffers"
        ) from error


def _run(module: nn.Module, images: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            logits = module(images.clone())
    except Exception as error:  # the module's own code may raise anything
        raise NetworkError(
            f"calibration images of shape {tuple(images.shape)} do not fit the module: {error}"
        ) from error
    if not isinstance(logits, Tensor):
        raise NetworkError(f"the module must return one tensor, the logits, found {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != len(images):
        raise NetworkError(
            f"the module must return logits (n, classes), found {tuple(logits.shape)} for {len(images)} images: end "
            "it in torch.flatten(x, 1) or a linear layer"
        )
    if not torch.isfinite(logits).all():
        raise NetworkError("the module gives NaN or infinite logits for calibration images: train it again")
    return logits


def _rewrite(traced: fx.GraphModule) -> Callable[[Tensor], Tensor]:
    """Bring a graph into plain form. Returns the function that was left out at its end."""
    graph, modules = traced.graph, dict(traced.named_modules(remove_duplicate=False))
    for node in list(graph.nodes):
        module = modules[str(node.target)] if node.op == "call_module" else None
        _take_by_position(node, module)
        if _does_nothing(node, module):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _make_pure(graph, modules)
    ending = _leave_out_ending(traced, modules)
    for node in list(graph.nodes):
        if node.op == "call_module":
            _rewrite_module(traced, node, modules)
        elif function_of(node) in ("view", "reshape") and _flattens(node):
            node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (node.args[0], 1), {}
        elif function_of(node) == "mean":
            _rewrite_mean(graph, node)
        elif (found := arithmetic_as_affine(node, traced)) is not None:
            _put_affine(traced, node, *found)
    graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return ending


def _take_by_position(node: fx.Node, module: nn.Module | None) -> None:
    """Make the operand of a node its first positional argument if it was given by name."""
    if module is not None and node.kwargs:
        bound = inspect.signature(module.forward).bind(*node.args, **node.kwargs)
        node.args, node.kwargs = bound.args, bound.kwargs
    for name in ("input", "tensors"):
        if not node.args and name in node.kwargs:
            node.args = (node.kwargs[name],)
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != name}


def _does_nothing(node: fx.Node, module: nn.Module | None) -> bool:
    if isinstance(module, nn.Identity) or (isinstance(module, _DropoutNd) and not module.training):
        return True
    if node.op == "call_method":
        return node.target == "contiguous"
    return node.op == "call_function" and function_of(node) in _DROPOUTS and node.kwargs.get("training") is False


def _make_pure(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Replace in-place operations by ones that leave their inputs unchanged; later operations use the results instead.

    Raises:
        NetworkError: the memory that an operation changes is used afterwards under another name.
    """
    order = {node: number for number, node in enumerate(graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}  # node -> the node that allocated its memory
    for node in graph.nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else node
        in_place = _is_in_place(node, module)
        shared = in_place or isinstance(module, nn.Flatten) or (module is None and function_of(node) in _VIEWS)
        memory[node] = memory[source] if shared and source is not node else node
        if not in_place:
            continue
        for other in [known for known in memory if memory[known] is memory[node] and known is not node]:
            for user in [user for user in other.users if order[user] > order[node]]:
                if other is not source:
                    raise NetworkError(
                        f"node {called(node)} changes memory in place that node {called(user)} uses afterwards through "
                        f"{called(other)}: avoid the in-place operation there"
                    )
                user.replace_input_with(source, node)
        if node.op == "call_method":
            node.target = str(node.target).removesuffix("_")
        elif node.op == "call_function":
            node.target = _PURE.get(function_of(node), node.target)
    for node in graph.nodes:
        if "inplace" in node.kwargs:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    for part in modules.values():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]


def _is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = function_of(node)
    named = name == "iadd" or (name.endswith("_") and not name.endswith("__"))
    return node.op.startswith("call") and (named or bool(node.kwargs.get("inplace")))


def _leave_out_ending(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> Callable[[Tensor], Tensor]:
    """Remove a softmax of the logits. It is monotone, so no decision changes."""
    (output,) = [node for node in traced.graph.nodes if node.op == "output"]
    node = output.args[0]
    module = modules[str(node.target)] if node.op == "call_module" else None
    match module:
        case nn.Softmax():
            name, dim = "softmax", module.dim
        case nn.LogSoftmax():
            name, dim = "log_softmax", module.dim
        case _:
            name, dim = function_of(node), _argument(node, 1, "dim")
    if name not in _ENDINGS or dim not in (1, -1) or node.kwargs.get("dtype") is not None:
        return lambda logits: logits
    output.args = (node.args[0],)
    traced.meta["left_out"] = [*traced.meta.get("left_out", []), str(node.target if module else node.name)]
    return _ENDINGS[name]


def _argument(node: fx.Node, place: int, name: str) -> Any:
    """An argument that is given by position or by name, or None if it is not given."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _put_affine(traced: fx.GraphModule, node: fx.Node, source: fx.Node, affine: ChannelAffine) -> None:
    name = f"{node.name}_affine"
    node.meta["path"] = str(node.target) if node.op == "call_module" else node.name
    traced.add_submodule(name, affine)
    node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}


def _rewrite_module(traced: fx.GraphModule, node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Write padding of a convolution as numbers, PReLU as LeakyReLU, and batch norm that follows no layer as a gain."""
    module = modules[str(node.target)]
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros":
            raise NetworkError(
                f"convolution {called(node)} pads with {module.padding_mode!r}: train it with padding_mode='zeros'"
            )
        module.padding = _padding(node, module)
    elif isinstance(module, NORMS) and module.running_mean is None:
        raise NetworkError(
            f"batch norm {called(node)} keeps no running statistics: train it with track_running_stats=True"
        )
    elif isinstance(module, NORMS):
        before = node.args[0]
        assert isinstance(before, fx.Node)
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d | nn.Linear) or len(before.users) != 1:
            _put_affine(traced, node, before, norm_as_affine(module))
    elif isinstance(module, nn.PReLU) and module.num_parameters == 1:
        parent, _, leaf = str(node.target).rpartition(".")
        setattr(traced.get_submodule(parent), leaf, nn.LeakyReLU(module.weight.item()))


def _padding(node: fx.Node, layer: nn.Conv2d) -> tuple[int, ...]:
    if not isinstance(layer.padding, str):
        return layer.padding
    if layer.padding == "valid":
        return (0, 0)
    totals = [spread * (width - 1) for spread, width in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(total % 2 for total in totals):
        raise NetworkError(
            f"convolution {called(node)} pads its two sides unequally, as padding='same' of even kernels does: use an "
            "odd kernel or give padding as numbers"
        )
    return tuple(total // 2 for total in totals)


def _flattens(node: fx.Node) -> bool:
    """Whether a view or reshape is to (images, features). Whether the numbers fit shows when the graph is run."""
    shape = node.args[1:] or (node.kwargs.get("shape", ()),)
    if len(shape) == 1 and isinstance(shape[0], list | tuple):
        shape = tuple(shape[0])
    if len(shape) != 2:
        return False
    rows, columns = shape
    return _is_batch_size(rows) or bool(rows == -1 and columns != -1)


def _is_batch_size(value: object) -> bool:
    """Whether a node is x.size(0), x.size()[0] or x.shape[0]. The first axis of every tensor is the images."""
    if not isinstance(value, fx.Node):
        return False
    if value.target is not operator.getitem:
        return value.target == "size" and bool(_argument(value, 1, "dim") == 0)
    shape, axis = value.args
    if not isinstance(shape, fx.Node) or axis != 0:
        return False
    return (shape.target == "size" and len(shape.args) == 1) or (shape.target is getattr and shape.args[1] == "shape")


def _rewrite_mean(graph: fx.Graph, node: fx.Node) -> None:
    """Write a mean over height and width as pooling to one pixel."""
    axes = _argument(node, 1, "dim")
    if not isinstance(axes, list | tuple) or sorted(axis % 4 for axis in axes) != [2, 3]:
        return
    if set(node.kwargs) - {"dim", "keepdim"} or len(node.args) > 3:
        return
    pooled, keep = (node.args[0], 1), _argument(node, 2, "keepdim")
    node.op, node.target, node.args, node.kwargs = "call_function", F.adaptive_avg_pool2d, pooled, {}
    if not keep:
        with graph.inserting_before(node):
            pool = graph.call_function(F.adaptive_avg_pool2d, pooled)
        node.target, node.args = torch.flatten, (pool, 1)
