"""A network from an ONNX file: it computes what it did where it came from, and what is not understood is named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import cosim
from cosim.errors import NetworkError


class Residual(nn.Module):
    """Batch norm, two branches added, a depthwise and a dilated convolution, global pooling, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, padding=2, dilation=2)
        self.expand = nn.Conv2d(4, 6, 1)
        self.shortcut = nn.Conv2d(4, 6, 1, bias=False)
        self.leaky, self.activation = nn.LeakyReLU(0.1), nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = self.activation(self.expand(self.leaky(self.depthwise(x))) + self.shortcut(x))
        return self.last(torch.flatten(self.pool(x), 1))


class Branches(nn.Module):
    """Channels concatenated, average pooling with padding, log-softmax at the end."""

    def __init__(self, *, ends_in_softmax: bool = False) -> None:
        super().__init__()
        self.ends_in_softmax = ends_in_softmax
        self.wide = nn.Conv2d(1, 3, 3, padding=1, stride=2)
        self.narrow = nn.Conv2d(1, 3, 1, stride=2)
        self.pool = nn.AvgPool2d(2, 2, 1, count_include_pad=False)
        self.drop = nn.Dropout()
        self.last = nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.pool(torch.cat([self.wide(x), self.narrow(x)], 1)))
        x = self.last(torch.flatten(x, 1))
        return F.log_softmax(x, 1) if self.ends_in_softmax else x


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


MODULES: dict[str, Callable[[], nn.Module]] = {"lenet": lenet, "residual": Residual, "branches": Branches}


def settled(module: nn.Module) -> nn.Module:
    """Statistics and gains of batch norm as training leaves them."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.3, 1)
            part.weight.data.uniform_(-1, 1)
            part.bias.data.normal_(0, 0.3)
    return module.eval()


def images(count: int = 64) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def exported(module: nn.Module, path: Path, **options: Any) -> Path:
    """As torch writes it; with `training=PRESERVE`, batch norm stays apart from the convolution before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(module, (images(1),), path, dynamo=False, **options)
    return path


UNFOLDED = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("options", [{}, UNFOLDED, {"opset_version": 9}], ids=["folded", "unfolded", "opset 9"])
def test_a_loaded_module_computes_what_the_exported_one_does(module: str, options: dict, tmp_path: Path) -> None:
    net = settled(MODULES[module]())
    loaded = cosim.load_onnx(exported(net, tmp_path / "net.onnx", **options))
    with torch.no_grad():
        assert torch.allclose(loaded(images()), net(images()), atol=1e-5)
    assert loaded.meta == {"input_shape": (1, 6, 6), "classes": 3, "left_out": []}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("weight_quantizer", ["step", "asymmetric"])
def test_quantizing_the_file_is_quantizing_the_module(module: str, weight_quantizer: str, tmp_path: Path) -> None:
    net = settled(MODULES[module]())
    loaded = cosim.load_onnx(exported(net, tmp_path / "net.onnx", **UNFOLDED))
    options = {"weight_quantizer": weight_quantizer}
    found, expected = cosim.quantize(loaded, images(), **options), cosim.quantize(net, images(), **options)
    for mine, theirs in zip(found.layers, expected.layers, strict=True):
        assert torch.equal(mine.weight, theirs.weight)
        assert torch.equal(mine.zero_point, theirs.zero_point)
        assert mine.activation_scale == pytest.approx(theirs.activation_scale, rel=1e-6)
        assert (mine.padding, mine.geometry()) == (theirs.padding, theirs.geometry())
    with torch.no_grad():
        assert torch.allclose(found(images()), expected(images()), atol=1e-5)


def test_names_are_those_of_the_file(tmp_path: Path) -> None:
    net = settled(Residual())
    network = cosim.quantize(cosim.load_onnx(exported(net, tmp_path / "net.onnx")), images())
    assert [layer.name for layer in network.layers] == [
        "first_Conv", "depthwise_Conv", "expand_Conv", "shortcut_Conv", "last_Gemm"
    ]  # fmt: skip
    assert network.card["software"] == ["Relu", "leaky_LeakyRelu", "Add", "activation_Clip", "pool_GlobalAveragePool",
                                        "Flatten"]  # fmt: skip


def test_log_softmax_at_the_end_is_left_out(tmp_path: Path) -> None:
    net = settled(Branches(ends_in_softmax=True))
    loaded = cosim.load_onnx(exported(net, tmp_path / "net.onnx", dynamic_axes={"x": {0: "n"}}, input_names=["x"]))
    assert loaded.meta["left_out"] == ["/LogSoftmax"]
    with torch.no_grad():
        assert torch.allclose(loaded(images()).log_softmax(1), net(images()), atol=1e-5)


# --- operator by operator, against the onnx library's own evaluator -------------------------------------------------

Attributes = dict[str, Any]
rng = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return rng.normal(0, 1, shape).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    *,
    shape: tuple[int | str, ...] = ("n", 2, 7, 7),
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of the input x, and of the output y if not told otherwise."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", "classes")) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(","), [output], name=f"the {kind}", **attributes)


FLATTEN = node("Flatten", "z", "y", axis=1)
WEIGHTS = {"w": numbers(4, 2, 3, 3), "b": numbers(4)}
NORM = {name: numbers(2) for name in "gom"} | {"v": np.abs(numbers(2)) + 0.1}
MATRIX = {"m": numbers(98, 3), "t": numbers(3, 98), "c": numbers(3)}
CHANNELS = {"n": numbers(2, 1, 1), "w": 2 + numbers(1, 2, 1, 1) ** 2, "k": np.float32(0.3), "f": numbers(98)}
SIX = {"low": np.float32(0), "high": np.float32(6)}


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("nodes", "constants", "opset"),
    [
        ([node("Conv", "x,w,b", "z", strides=[2, 1], pads=[1, 0, 1, 0], dilations=[1, 2]), FLATTEN], WEIGHTS, 17),
        ([node("Conv", "x,w", "z", auto_pad="SAME_UPPER"), FLATTEN], WEIGHTS, 17),
        ([node("Conv", "x,w", "z", auto_pad="SAME_LOWER", strides=[2, 2]), FLATTEN], WEIGHTS, 17),
        ([node("Conv", "x,w", "z", auto_pad="VALID", kernel_shape=[3, 3]), FLATTEN], WEIGHTS, 17),
        ([node("Conv", "x,w", "z", group=2), FLATTEN], {"w": numbers(6, 1, 2, 3)}, 17),
        ([node("Conv", "x,w", "a"), node("Add", "a,a", "z"), FLATTEN], WEIGHTS, 17),
        ([node("BatchNormalization", "x,g,o,m,v", "z", epsilon=1e-3), FLATTEN], NORM, 15),
        ([node("Sub", "x,n", "a"), node("Div", "a,w", "z"), FLATTEN], CHANNELS, 17),
        ([node("Sub", "w,x", "a"), node("Mul", "k,a", "b"), node("Add", "b,n", "z"), FLATTEN], CHANNELS, 17),
        ([node("Flatten", "x", "z"), node("Mul", "z,f", "a"), node("Sub", "a,k", "y")], CHANNELS, 17),
        ([node("Clip", "x,low,high", "z"), FLATTEN], SIX, 17),
        ([node("Clip", "x", "z", min=0.0, max=6.0), FLATTEN], {}, 9),
        ([node("LeakyRelu", "x", "z"), FLATTEN], {}, 17),
        ([node("MaxPool", "x", "z", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]), FLATTEN], {}, 17),
        ([node("MaxPool", "x", "z", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), FLATTEN], {}, 17),
        ([node("MaxPool", "x", "z", kernel_shape=[3, 3], dilations=[2, 2]), FLATTEN], {}, 17),
        ([node("AveragePool", "x", "z", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), FLATTEN], {}, 17),
        ([node("AveragePool", "x", "z", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), FLATTEN], {}, 17),
        ([node("GlobalAveragePool", "x", "z"), FLATTEN], {}, 17),
        ([node("ReduceMean", "x", "y", axes=[2, 3], keepdims=0)], {}, 17),
        ([node("ReduceMean", "x", "z", axes=[-1, -2]), FLATTEN], {}, 13),
        ([node("ReduceMean", "x,a", "y", keepdims=0)], {"a": np.array([-1, 2])}, 18),
        ([node("ReduceMean", "x,a", "z", keepdims=1, noop_with_empty_axes=0), FLATTEN], {"a": np.array([2, 3])}, 20),
        ([node("Concat", "x,x", "z", axis=-3), FLATTEN], {}, 17),
        ([node("Identity", "x", "a"), node("Dropout", "a", "z"), FLATTEN], {}, 17),
        ([node("Reshape", "x,s", "y")], {"s": np.array([0, -1])}, 17),
        ([node("Reshape", "x,s", "y")], {"s": np.array([-1, 98])}, 17),
        ([node("Reshape", "x,s", "y", allowzero=1)], {"s": np.array([-1, 98])}, 18),
        ([node("Reshape", "x,s", "y", allowzero=1)], {"s": np.array([3, 98])}, 18),
        ([node("Constant", "", "s", value_ints=[-1, 98]), node("Reshape", "x,s", "y")], {}, 17),
        ([node("Flatten", "x", "z"), node("Gemm", "z,m,c", "y")], MATRIX, 17),
        ([node("Flatten", "x", "z"), node("Gemm", "z,t", "y", transB=1)], MATRIX, 17),
        ([node("Flatten", "x", "z"), node("MatMul", "z,m", "y")], MATRIX, 17),
        ([node("Flatten", "x", "z"), node("MatMul", "z,m", "p"), node("Add", "c,p", "y")], MATRIX, 17),
        (
            [node("Flatten", "x", "z"), node("MatMul", "z,m", "p"), node("Add", "p,c", "q"), node("Add", "p,q", "y")],
            MATRIX,
            17,
        ),
    ],
)
def test_operators_compute_what_onnx_says(nodes: list, constants: dict, opset: int, tmp_path: Path) -> None:
    for constant in nodes:
        if constant.op_type == "Constant":
            del constant.input[:]
    model = model_of(nodes, constants, opset=opset)
    x = numbers(3, 2, 7, 7)
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    with torch.no_grad():
        found = cosim.load_onnx(saved(model, tmp_path))(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([node("Sigmoid", "x", "z"), FLATTEN], {}, r"node 'the Sigmoid' \(Sigmoid\) is not understood.*supported: Add"),
        ([node("Shape", "x", "s"), node("Reshape", "x,s", "y")], {}, r"\(Shape\) is not understood: flatten with"),
        ([node("ReduceMax", "x", "z"), FLATTEN], {}, r"is not understood: export it again with dynamo=False, which"),
        ([helper.make_node("Sigmoid", ["x"], ["z"]), FLATTEN], {}, r"node 'z' \(Sigmoid\) is not understood"),
        ([helper.make_node("Relu", ["x"], ["z"], domain="mine"), FLATTEN], {}, r"node 'z' \(mine.Relu\) is not unders"),
        ([helper.make_node("Bad\x1b[2J", ["x"], ["z"]), FLATTEN], {}, r"\(Bad\?\[2J\) is not understood"),
        ([node("Conv", "x,w", "z", pads=[0, 0, 1, 1]), FLATTEN], WEIGHTS,
         r"'the Conv' \(Conv\): expected the same padding on both sides, found pads \[0, 0, 1, 1\] \(top, left,"),
        ([node("MaxPool", "x", "z", auto_pad="SAME_LOWER", kernel_shape=[2, 2]), FLATTEN], {},
         r"found pads \[1, 1, 0, 0\] \(top, left, bottom, right\) from SAME_LOWER: pad symmetrically"),
        ([node("Conv", "x,w", "z"), FLATTEN], {"w": numbers(4, 3, 3, 3)}, r"\(Conv\) does not fit its input of shape"),
        ([node("Conv", "x,w", "z"), FLATTEN], {"w": numbers(4, 2, 3)}, r"found \(4, 2, 3\): use Conv2d"),
        ([node("Conv", "x,w", "z", group=0), FLATTEN], WEIGHTS, r"\(Conv\) does not fit"),
        ([node("Conv", "x,x", "z"), FLATTEN], {}, "expected input 2 as a constant, found 'x', computed"),
        ([node("Conv", "x,w", "z"), FLATTEN], {"w": numbers(4, 2, 3, 3) * np.float32("nan")},
         r"node 'the Conv' \(Conv\): expected finite 'w', found NaN or infinite values: train"),
        ([node("Flatten", "x", "z"), node("Gemm", "z,m", "y", alpha=0.5)], MATRIX, r"expected alpha = 1.0, found 0.5"),
        ([node("Gemm", "x,m", "y")], MATRIX, r"expected \(images, features\) times a matrix.*flatten the images first"),
        ([node("Flatten", "x", "z"), node("Gemm", "z,m,c", "y")], MATRIX | {"c": numbers(2)}, r"bias of shape \(3,\)"),
        ([node("BatchNormalization", "x,g,o,m,v", "z"), FLATTEN], NORM | {"v": numbers(2) - 5}, "a positive variance"),
        ([node("BatchNormalization", "x,g,o,m,v", "z", training_mode=1), FLATTEN], NORM, "training_mode = 0, found 1"),
        ([node("Clip", "x,low", "z"), FLATTEN], SIX, "expected bounds 0 and 6, found 0.0 and None: use ReLU6"),
        ([node("MaxPool", "x", "z", kernel_shape=[2]), FLATTEN], {}, "two kernel_shape, for height and width"),
        ([node("Flatten", "x", "y", axis=2)], {}, "expected axis = 1, found 2"),
        ([node("Reshape", "x,s", "y")], {"s": np.array([-1, 7])}, r"expected shape \(-1, 98\), found \[-1, 7\]"),
        ([node("Reshape", "x,s", "y", allowzero=1)], {"s": np.array([0, 98])},
         r"expected allowzero = 0 with a shape that holds 0, found \[0, 98\]: flatten with torch.flatten"),
        ([node("Reshape", "x,s", "y")], {"s": np.array([3, -1])}, r"expected shape \(-1, 98\), found \[3, -1\]"),
        ([node("ReduceMean", "x", "z", axes=[1, 2]), FLATTEN], {},
         r"'the ReduceMean' \(ReduceMean\): expected axes 2 and 3, height and width, found \[1, 2\]: use Adaptive"),
        ([node("ReduceMean", "x", "z"), FLATTEN], {}, "expected axes 2 and 3, height and width, found None"),
        ([node("Concat", "x,x", "z", axis=2), FLATTEN], {}, "expected axis = 1, found 2: concatenate channels"),
        ([node("Add", "x,b", "z"), FLATTEN], {"b": numbers(7)}, r"one per channel, found \(7,\): fold it"),
        ([node("Div", "b,x", "z"), FLATTEN], {"b": numbers(1)}, "found a division by a tensor or by zero"),
        ([node("Mul", "x,x", "z"), FLATTEN], {}, "a tensor and a constant, found two computed tensors"),
        ([node("GlobalAveragePool", "x", "a"), node("Add", "a,x", "z"), FLATTEN], {}, "both must have the same shape"),
        ([node("Flatten", "x", "y"), node("Softmax", "y", "s"), node("Relu", "s", "t")], {}, "at the very end"),
        ([node("Identity", "b", "z"), node("Relu", "z", "y")], {"b": numbers(1)}, "found only constants"),
        ([node("Dropout", "x,r,t", "z"), FLATTEN], {"r": np.float32(0.5), "t": np.array(True)}, "training_mode = "),
        ([node("Relu", "x", "y")], {}, r"output 'y' is of shape \(1, 2, 7, 7\) for one image, expected logits"),
        ([node("Relu", "q", "z"), FLATTEN], {}, "breaks the rules of ONNX"),
    ],
)  # fmt: skip
def test_a_node_that_is_not_understood_is_named(nodes: list, constants: dict, message: str, tmp_path: Path) -> None:
    output = nodes[-1].output[0]
    with pytest.raises(NetworkError, match=message):
        cosim.load_onnx(saved(model_of(nodes, constants, outputs=(output,)), tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"shape": ("n", 2, "h", "w")},
            r"input 'x' has shape \(n, 2, h, w\), expected \(images, channels, height, width",
        ),
        ({"shape": ("n", 784)}, r"input 'x' has shape \(n, 784\), expected"),
        ({"element": TensorProto.DOUBLE}, "input 'x' is DOUBLE, expected FLOAT"),
        ({"opset": 6}, "has opset 6, expected 7 or newer"),
        ({"outputs": ("y", "z")}, "expected one output, the logits, found 'y', 'z'"),
    ],
)
def test_models_that_cannot_be(settings: dict, message: str, tmp_path: Path) -> None:
    model = model_of([node("Relu", "x", "z"), FLATTEN], **settings)
    with pytest.raises(NetworkError, match=message):
        cosim.load_onnx(saved(model, tmp_path))


POOL = {"kernel_shape": [2, 2]}
HUGE = 2**62


@pytest.mark.parametrize("shape", [(1, HUGE, 8), (1, HUGE, HUGE), (2**31, 2**31, 2**31), (1, 2**12 + 1, 2**12)])
def test_images_that_are_too_large(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = model_of([node("Relu", "x", "z"), FLATTEN], shape=("n", *shape))
    with pytest.raises(
        NetworkError, match=r"input 'x' takes images of shape \(.*\), expected at most 16777216 numbers"
    ):
        cosim.load_onnx(saved(model, tmp_path))


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("Conv", {"strides": [0, 0]}, "expected strides of 1 to 65536"),
        ("Conv", {"strides": [HUGE, HUGE]}, "expected strides of 1 to 65536"),
        ("Conv", {"dilations": [0, 1]}, "expected dilations of 1 to 65536"),
        ("Conv", {"dilations": [-1, -1]}, "expected dilations of 1 to 65536"),
        ("Conv", {"pads": [HUGE] * 4}, "expected pads of 0 to 65536"),
        ("Conv", {"pads": [-1] * 4}, "expected pads of 0 to 65536"),
        ("Conv", {"pads": [2**14] * 4}, "expected at most 268435456 values for an image up to this node"),
        ("Conv", {"group": HUGE}, "does not fit its input"),
        ("Conv", {"group": 0}, "does not fit its input"),
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [0, 1]}, "expected strides of 1 to 65536"),
        ("MaxPool", {"kernel_shape": [HUGE, 1]}, "expected kernel_shape of 1 to 65536"),
        ("MaxPool", {"kernel_shape": [2**40] * 2, "pads": [2**39] * 4}, "expected kernel_shape of 1 to 65536"),
        ("AveragePool", {**POOL, "strides": [HUGE, 1]}, "expected strides of 1 to 65536"),
        ("LeakyRelu", {"alpha": float("nan")}, "expected a finite alpha"),
    ],
)
def test_attributes_beyond_reason(kind: str, attributes: dict, message: str, tmp_path: Path) -> None:
    made = node(kind, "x,w" if kind == "Conv" else "x", "z", **attributes)
    with pytest.raises(NetworkError, match=rf"node 'the {kind}' \({kind}\).* {message}"):
        cosim.load_onnx(saved(model_of([made, FLATTEN], WEIGHTS), tmp_path))


def test_results_that_double_and_double(tmp_path: Path) -> None:
    doubled = [node("Concat", f"r{number},r{number}", f"r{number + 1}", axis=1) for number in range(60)]
    model = model_of([node("Relu", "x", "r0"), *doubled, node("Flatten", "r60", "y")])
    with pytest.raises(NetworkError, match="expected at most 268435456 values for an image up to this node"):
        cosim.load_onnx(saved(model, tmp_path))


def test_weights_that_hold_no_numbers(tmp_path: Path) -> None:
    model = model_of([node("Flatten", "x", "f"), node("Gemm", "f,w,b", "y", transB=1)], {"b": np.ones(1, np.float32)})
    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 0]))
    with pytest.raises(NetworkError, match=r"expected numbers in 'w', found shape \(1099511627776, 0\)"):
        cosim.load_onnx(saved(model, tmp_path))


def test_thousands_of_nodes_of_one_name(tmp_path: Path) -> None:
    alike = [node("Relu", f"r{number}", f"r{number + 1}") for number in range(400)]
    model = model_of([node("Relu", "x", "r0"), *alike, node("Flatten", "r400", "y")])
    names = [name for name, _ in cosim.load_onnx(saved(model, tmp_path)).named_children()]
    assert names == ["the_Relu", *(f"the_Relu_{number}" for number in range(2, 402)), "the_Flatten"]
    with pytest.raises(NetworkError, match="has 2001 nodes, expected at most 2000"):
        cosim.load_onnx(saved(model_of([node("Relu", "x", "r0")] * 2001), tmp_path))


def test_several_inputs(tmp_path: Path) -> None:
    model = model_of([node("Add", "x,second", "z"), FLATTEN])
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ("n", 2, 7, 7)))
    with pytest.raises(NetworkError, match="expected one input, the images, found 'x', 'second'"):
        cosim.load_onnx(saved(model, tmp_path))


def test_initializers_that_are_inputs_too_are_weights(tmp_path: Path) -> None:
    model = model_of([node("Conv", "x,w,b", "z"), FLATTEN], WEIGHTS)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (4, 2, 3, 3)))
    assert cosim.load_onnx(saved(model, tmp_path)).meta["classes"] == 100


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int8])
def test_weights_of_another_type(kind: type, tmp_path: Path) -> None:
    model = model_of([node("Conv", "x,w", "z"), FLATTEN], {"w": WEIGHTS["w"].astype(kind)})
    found = TensorProto.DataType.Name(model.graph.initializer[0].data_type)
    with pytest.raises(
        NetworkError, match=rf"\(Conv\): expected 'w' as FLOAT, found {found}: export the network in fl"
    ):
        cosim.load_onnx(saved(model, tmp_path))


def in_two_files(folder: Path) -> onnx.ModelProto:
    """A model whose weights lie in net.onnx.data, as torch's default exporter writes them; the file net.onnx too."""
    model = model_of([node("Conv", "x,w,b", "z"), FLATTEN], WEIGHTS)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    return onnx.load(folder / "net.onnx", load_external_data=False)


def place(model: onnx.ModelProto, **entries: str) -> None:
    """Say where the first weights lie, in other words."""
    tensor = model.graph.initializer[0]
    found = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in found.items())


def test_weights_in_a_file_beside_are_read(tmp_path: Path) -> None:
    in_two_files(tmp_path)
    one = model_of([node("Conv", "x,w,b", "z"), FLATTEN], WEIGHTS)
    (tmp_path / "one.onnx").write_bytes(one.SerializeToString())
    x = torch.from_numpy(numbers(3, 2, 7, 7))
    with torch.no_grad():
        found, expected = cosim.load_onnx(tmp_path / "net.onnx")(x), cosim.load_onnx(tmp_path / "one.onnx")(x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../net.onnx.data"}, r"lie in '../net.onnx.data', expected a file in the same folder: export "),
        ({"location": "/etc/passwd"}, "lie in '/etc/passwd', expected a file in the same folder.*external_data=False"),
        ({"location": "below/net.onnx.data"}, "expected a file in the same folder"),
        ({"location": ".."}, "expected a file in the same folder"),
        ({"location": ""}, "expected a file in the same folder"),
        ({"location": "a\0b"}, "expected a file in the same folder"),
        ({"location": "none.data"}, r"lie in .*none.data, which cannot be read \(No such file or directory\): put "),
        ({"location": "link.data"}, "link.data, which cannot be read"),
        ({"location": "folder"}, "folder, expected a plain file|folder, which cannot be read"),
        ({"offset": "-4"}, "have no valid place in .*net.onnx.data: export the network again"),
        ({"length": "many"}, "have no valid place in"),
        ({"offset": "4096"}, r"end at byte \d+ of .*net.onnx.data, which has \d+: export the network again"),
        ({"length": str(3 << 30)}, "take more than 1024 MiB: use a smaller network"),
        ({"length": "8"}, "is damaged|breaks the rules of ONNX"),
    ],
)
def test_weights_that_do_not_lie_beside(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    model = in_two_files(tmp_path)
    (tmp_path / "link.data").symlink_to(tmp_path / "net.onnx.data")
    (tmp_path / "folder").mkdir()
    place(model, **entries)
    with pytest.raises(NetworkError, match=message):
        cosim.load_onnx(saved(model, tmp_path))


def test_weights_that_are_shorter_than_their_shape(tmp_path: Path) -> None:
    model = model_of([node("Conv", "x,w", "z"), FLATTEN], WEIGHTS)
    model.graph.initializer[0].dims[0] = 10**12
    with pytest.raises(NetworkError, match=r"'w' is damaged|breaks the rules of ONNX"):
        cosim.load_onnx(saved(model, tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a network at all", "is not an ONNX file: export the network with torch.onnx.export"),
        (b"", "holds no ONNX network"),
        (b"\x80\x04\x95pickle", "is not an ONNX file|holds no ONNX network"),
    ],
)
def test_files_that_are_no_networks(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(NetworkError, match=message):
        cosim.load_onnx(tmp_path / "net.onnx")


def test_damaged_files_load_or_are_refused(tmp_path: Path) -> None:
    content = saved(model_of([node("Conv", "x,w,b", "z"), FLATTEN], WEIGHTS), tmp_path).read_bytes()
    random, outcomes = np.random.default_rng(1), set[str]()
    for place in range(0, len(content), 3):
        damaged = content[:place] + bytes(random.integers(0, 256, 2, np.uint8)) + content[place + 2 :]
        for name, spoiled in (("cut", content[:place]), ("changed", damaged)):
            (tmp_path / name).write_bytes(spoiled)
            try:  # any exception but this one fails
                cosim.load_onnx(tmp_path / name)
                outcomes.add("loaded")
            except NetworkError:
                outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = saved(model_of([node("Relu", "x", "z"), FLATTEN]), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"the Relu", b"the \xff\xfelu"))
    with pytest.raises(NetworkError, match="has names that are not UTF-8"):
        cosim.load_onnx(path)


def test_files_that_are_missing_or_huge(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no ONNX file at"):
        cosim.load_onnx(tmp_path / "none.onnx")
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(NetworkError, match="has 3072 MiB, expected at most 1024"):
        cosim.load_onnx(tmp_path / "huge.onnx")


def test_names_that_mean_something_in_python_are_changed(tmp_path: Path) -> None:
    names = ["forward", "__class__", "import", "self", "images", "images", "x" * 200, "1", "a b/c;d", "training"]
    inputs = ["x", *(f"v{number}" for number in range(len(names)))]
    nodes = [
        helper.make_node("Conv", [before, "w"], [after], name=name, pads=[1, 1, 1, 1])
        for name, before, after in zip(names, inputs, inputs[1:], strict=False)
    ]
    model = model_of([*nodes, node("Flatten", inputs[-1], "y")], {"w": numbers(2, 2, 3, 3) / 4})
    loaded, x = cosim.load_onnx(saved(model, tmp_path)), torch.rand(4, 2, 7, 7)
    network = cosim.quantize(loaded, x, weight_bits=8, activation_bits=8)
    assert [layer.name for layer in network.layers] == [
        "forward_2", "class_2", "import_2", "self_2", "images_2", "images_3", "x" * 56, "conv_1", "a_b_c_d",
        "training_2",
    ]  # fmt: skip
    with torch.no_grad():
        assert torch.allclose(network.forward_float(x), loaded(x), atol=1e-4)
