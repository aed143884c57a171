"""The ways in which torch classifiers are written: the network of each is the module, or the module is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cosim
from cosim.errors import NetworkError

IMAGES = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """Two convolutions and a linear layer, put together by whatever function is given."""

    def __init__(self, forward: Callable[[Written, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(144, 3)
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def settled(module: nn.Module) -> nn.Module:
    """Statistics and gains of batch norm as training leaves them."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.3, 1)
            if part.affine:
                part.weight.data.uniform_(-1, 1)
                part.bias.data.normal_(0, 0.3)
    return module.eval()


def check_same(module: nn.Module) -> cosim.Network:
    """Quantize to 8 bits; the float network is the module, the quantized one close to it, the module as it was."""
    settled(module)
    before = copy.deepcopy(module.state_dict())
    network = cosim.quantize(module, IMAGES, weight_bits=8, activation_bits=8)
    with torch.no_grad():
        expected = module(IMAGES.clone())
        assert torch.allclose(network.forward_float(IMAGES), expected, atol=1e-5)
        assert (network(IMAGES) - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return network


def in_place_module(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    return s.last((s.second(s.relu(y)) + y).flatten(1))


def in_place_function(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    return s.last((s.second(F.relu(y, inplace=True)) + y).flatten(1))


def in_place_leaky(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    return s.last((s.second(F.leaky_relu(y, 0.2, True)) + y).flatten(1))


def in_place_method_alone(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    y.relu_()
    return s.last(s.second(y).flatten(1))


def in_place_torch_function_alone(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    torch.relu_(y)
    return s.last(s.second(y).flatten(1))


def in_place_addition_alone(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    z = s.second(y)
    z.add_(y)
    y.relu_()
    return s.last((z + y).flatten(1))


def in_place_through_identity(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    z = F.dropout(nn.functional.dropout(y, training=s.training), training=s.training).contiguous()
    z.relu_()
    return s.last((s.second(y) + z).flatten(1))


def in_place_behind_a_view(s: Written, x: Tensor) -> Tensor:
    y = s.second(s.first(x)).flatten(1)
    y.relu_()
    return s.last(y)


def augmented_addition(s: Written, x: Tensor) -> Tensor:
    y = s.relu(s.first(x))
    y += s.second(y)
    return s.last(s.relu(y).flatten(1))


@pytest.mark.parametrize(
    "forward",
    [
        in_place_module,
        in_place_function,
        in_place_leaky,
        in_place_method_alone,
        in_place_torch_function_alone,
        in_place_addition_alone,
        in_place_through_identity,
        in_place_behind_a_view,
        augmented_addition,
    ],
)
def test_in_place_operations_change_what_later_uses_see(forward: Callable[[Written, Tensor], Tensor]) -> None:
    check_same(Written(forward))


def view_changed(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    y.flatten(1).relu_()
    return s.last(s.second(y).flatten(1))


def viewed_then_changed(s: Written, x: Tensor) -> Tensor:
    y = s.first(x)
    z = y.view(x.size(0), -1)
    y.relu_()
    return s.last(s.second(y).flatten(1)) + s.last(z)


def alias_added_to(s: Written, x: Tensor) -> Tensor:
    y = alias = s.first(x)
    y += s.second(y)
    return s.last((alias + y).flatten(1))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (view_changed, "node 'relu_' changes memory in place that node 'second' uses afterwards through 'first'"),
        (viewed_then_changed, "node 'relu_' changes memory .* that node 'last' uses afterwards through 'view'"),
        (alias_added_to, "logits of the traced network differ .*do not change a tensor in place"),
        (lambda s, x: s.last((s.first(x) * x).flatten(1)), "node 'mul' is mul, .*constant tensor of"),
        (lambda s, x: s.last((1 / s.first(x)).flatten(1)), "node 'truediv' is truediv, .*constant tensor of"),
        (lambda s, x: s.last((s.first(x) / 0).flatten(1)), "NaN or infinite"),
    ],
)
def test_what_cannot_be_proved_to_be_the_module_is_refused(
    forward: Callable[[Written, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        cosim.quantize(Written(forward).eval(), IMAGES)


def test_hooks_that_change_something_are_refused_and_others_are_not() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU()), nn.Flatten(), nn.Linear(64, 3)).eval()
    seen = []
    module[1].register_forward_hook(lambda *given: seen.append(1))
    cosim.quantize(module, IMAGES)
    for place in (0, 3):
        hooked = copy.deepcopy(module)
        hooked[place].register_forward_hook(lambda layer, given, result: 2 * result)
        with pytest.raises(NetworkError, match=r"logits of the traced network differ .*: remove forward hooks"):
            cosim.quantize(hooked, IMAGES)


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.last(s.first(x).view(-1, 144)),
        lambda s, x: s.last(s.first(x).view(x.shape[0], -1)),
        lambda s, x: s.last(s.first(x).reshape(x.size()[0], 144)),
        lambda s, x: s.last(torch.reshape(s.first(x), (x.size(dim=0), -1))),
        lambda s, x: s.last(torch.flatten(input=s.first(input=x), start_dim=1)),
        lambda s, x: s.last(F.dropout(F.relu6(s.first(x)), 0.5, s.training).contiguous().flatten(1)),
        lambda s, x: s.last(F.leaky_relu(s.norm(s.first(x)), negative_slope=0.3).flatten(1)),
        lambda s, x: s.last(s.relu(s.first(x)).flatten(1)).log_softmax(1),
        lambda s, x: F.adaptive_avg_pool2d(s.first(x), 1).view(x.size(0), x.size(0) * 0 + 4),
        lambda s, x: s.second(s.first(x)).mean((2, 3)),
        lambda s, x: torch.mean(s.second(s.first(x)), dim=[-1, -2], keepdim=True).flatten(1),
    ],
)
def test_idioms(forward: Callable[[Written, Tensor], Tensor]) -> None:
    module = Written(forward)
    if "log_softmax" not in forward.__code__.co_names:
        check_same(module)
        return
    network = cosim.quantize(module.eval(), IMAGES)
    with torch.no_grad():
        assert torch.allclose(network.forward_float(IMAGES).log_softmax(1), module(IMAGES), atol=1e-5)
    assert network.card["left_out"] == ["log_softmax"]


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        (nn.Conv2d(1, 4, (3, 5), padding="same"), nn.Flatten(), nn.Linear(144, 3)),
        (nn.Conv2d(1, 4, 3, dilation=2, padding="same"), nn.Flatten(), nn.Linear(144, 3)),
        (nn.Conv2d(1, 4, 3, padding="valid"), nn.Flatten(), nn.Linear(64, 3)),
        (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 3)),
        (nn.Conv2d(1, 4, 3), nn.PReLU(), nn.Flatten(), nn.Linear(64, 3)),
    ],
)
def test_modules(layers: tuple[nn.Module, ...]) -> None:
    check_same(nn.Sequential(*layers))


@pytest.mark.parametrize("ending", [nn.Softmax(-1), nn.LogSoftmax(1)])
def test_softmax_at_the_end_is_left_out(ending: nn.Module) -> None:
    logits = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    network = cosim.quantize(nn.Sequential(logits, ending), IMAGES)
    with torch.no_grad():
        assert torch.allclose(network.forward_float(IMAGES), logits(IMAGES), atol=1e-6)
    assert network.card["left_out"] == ["1"]


def test_a_module_in_double_is_quantized_in_single_precision() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    single = cosim.quantize(module, IMAGES)
    assert torch.equal(cosim.quantize(copy.deepcopy(module).double(), IMAGES)(IMAGES), single(IMAGES))
    with pytest.raises(NetworkError, match=r"must be float32 on the cpu, found torch.float64 on cpu: .*\.float\(\)"):
        cosim.quantize(module.double(), IMAGES.double())


def test_what_nothing_uses_is_left_away() -> None:
    def forward(s: Written, x: Tensor) -> Tensor:
        y = s.first(x)
        s.second(y)
        return s.last(y.flatten(1))

    assert [layer.name for layer in check_same(Written(forward)).layers] == ["first", "last"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.rest((x - 0.5) / 0.25),
        lambda s, x: s.rest(x.sub(s.mean).div(s.deviation)),
        lambda s, x: s.rest(4.0 * x + -2.0),
        lambda s, x: s.rest(-2 + torch.mul(x, 4)),
        lambda s, x: s.rest((0.5 - x) * -4),
        lambda s, x: s.rest((x - 0.5).mul_(4)),
    ],
)
def test_normalized_images(forward: Callable[[Written, Tensor], Tensor]) -> None:
    rest = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(144, 3))
    module = Written(forward, rest=rest)
    module.register_buffer("mean", torch.full((1, 1, 1), 0.5))
    module.register_buffer("deviation", torch.full((1, 1, 1, 1), 0.25))
    network = check_same(module)
    with torch.no_grad():
        assert torch.allclose(network.forward_float(IMAGES), rest((IMAGES - 0.5) / 0.25), atol=1e-5)
    assert network.layers[0].input_zero_point > 0  # a border of zeros lies in the middle of the range


def test_batch_norm_that_no_layer_takes_in(tmp_path: Path) -> None:
    """In front of the network, before activations of a pre-activation block, and behind a layer that others use."""

    def forward(s: Written, x: Tensor) -> Tensor:
        y = s.first(s.before(x))
        y = y + s.second(F.relu(s.norm(y)))
        return s.last(s.behind(y.flatten(1)))

    network = check_same(Written(forward, before=nn.BatchNorm2d(1), behind=nn.BatchNorm1d(144, affine=False)))
    assert network.card["software"] == ["before", "norm", "relu", "add", "flatten", "behind"]
    cosim.save_network(network, tmp_path / "net.safetensors")
    again = cosim.load_network(tmp_path / "net.safetensors")
    assert torch.equal(again(IMAGES), network(IMAGES))
    config = cosim.Config.load(None, ["run.fidelity=ideal", "run.layers=all", "run.rescale=float"])
    assert torch.equal(cosim.CircuitNetwork(again, config)(IMAGES), network(IMAGES))


class Block(nn.Module):
    """A block with something that is not understood."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(Block(), nn.Flatten()), "node 'sigmoid' in '0' is sigmoid, which is not understood"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Flatten()), r"'1' is PReLU, .*: use nn.PReLU\(\) with one"),
        (
            nn.Sequential(
                nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), nn.Flatten()
            ),
            r"batch norm '0\.1' keeps no running statistics: train it with track_running_stats=True",
        ),
        (nn.Sequential(nn.Identity(), nn.Flatten()), "has no convolution or linear layer"),
        (nn.Sequential(nn.Identity()), r"must return logits \(n, classes\), found \(8, 1, 6, 6\) for 8 images"),
        (nn.Sequential(nn.Conv2d(1, 4, 3)), r"must return logits \(n, classes\), found \(8, 4, 4, 4\)"),
        (
            nn.Sequential(nn.Linear(6, 3), nn.Flatten()),
            r"Linear '0' gets an input of shape \(16, 1, 6, 6\), expected 2 axes: put fl",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(36, 3, device="meta")),
            r"parameter '1\.weight' is on meta, expected cpu",
        ),
        (Written(lambda s, x: s.last(s.first(x).flatten(1)).softmax(0)), r"node 'softmax' is softmax, .*\(dim=1\)"),
        (Written(lambda s, x: s.last(s.first(x).view(16, -1))), r"do not fit the module|found \(16, .*\) for 8 images"),
        (Written(lambda s, x: s.last(s.first(x).view(8, -1))), r"node 'view' is view, .*: flatten with torch.flatten"),
        (
            Written(lambda s, x: s.narrow(s.first(x).view(-1, 72)).view(-1, 6), narrow=nn.Linear(72, 3)),
            r"does not run, although the module does .*: flatten with torch.flatten\(x, 1\)",
        ),
        (nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), r"parameter '0\.weight' is not initialized: run the module"),
        (Written(lambda s, x: F.conv2d(x, s.first.weight).flatten(1)), "node 'conv2d' is conv2d, .*use nn.Conv2d its"),
        (Written(lambda s, x: s.last(F.dropout(s.first(x)).flatten(1))), "node 'dropout' is dropout, .*self.training"),
        (
            Written(lambda s, x: s.last((s.first(x) + s.norm.bias[:, None, None]).flatten(1))),
            "is getitem, which is not",
        ),
        (
            Written(lambda s, x: s.last(s.first(x).flatten(1)) + s.last.bias),
            "node 'add' is add, .*two computed tensors",
        ),
        (Written(lambda s, x: (s.last(s.first(x).flatten(1)), x)), "must return one tensor, the logits, found tuple"),
    ],
)
def test_what_is_refused_is_named_with_a_remedy(module: nn.Module, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        cosim.quantize(module.eval(), IMAGES)


def test_a_module_whose_logits_are_not_finite() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    module[1].weight.data.fill_(1e38)
    with pytest.raises(NetworkError, match="NaN or infinite logits for calibration images: train it again"):
        cosim.quantize(module, IMAGES)


def test_an_input_that_is_always_zero_has_no_range() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(NetworkError, match="input of layer '0' is zero for all 16 calibration images"):
        cosim.quantize(module, torch.zeros_like(IMAGES))
    module[0].weight.data[1] = 0  # a channel of no weights is legitimate
    cosim.quantize(module, IMAGES)
    module[0].bias.data.fill_(-1e3)
    with pytest.raises(NetworkError, match=r"input of layer '2\.1' is zero for all .*: give more images"):
        cosim.quantize(module, IMAGES)
