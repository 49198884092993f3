"""Sequences of changes to a stored weight; after each, products must be those of the plain formula."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.formats import FORMATS, Conv, Format
from smart_kernels.nn import SparseConv2d, SparseLinear
from tests.util import TOLERANCE

DTYPES = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
OPTIONS = {
    "bsr": ({}, {"union": 2}),
    "ell": ({}, {"engine": "bmm", "buckets": 2}, {"engine": "onednn", "buckets": 1}),
}
CONVS = (
    Conv((1, 1)),
    Conv((1, 1), (2, 2)),
    Conv((3, 3), padding=(1, 1)),
    Conv((3, 2), (2, 1), (1, 0), (1, 2)),
    Conv((2, 2), padding=(1, 1)),
)
OFTEN = ("jit", "jit", "jit", "ell", "compact", "packed")  # besides: what has its own form of the numbers
TILES = ((8, 8), (8, 4), (16, 16), (32, 8), (24, 5), (40, 16))
MODES = (torch.no_grad, torch.no_grad, torch.inference_mode, torch.enable_grad)
REFUSALS = (ValueError, RuntimeError, TypeError, NotImplementedError, IndexError)


@dataclass
class Stored:
    """A sparse layer, and the plain weight and bias that it stands for."""

    layer: nn.Module
    weight: Tensor  # (N, taps * C)
    bias: Tensor | None
    conv: Conv | None

    @property
    def format(self) -> Format:
        return self.layer.format

    def plain(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.linear(x, self.weight, self.bias)
        kernel = self.weight.unflatten(1, (*self.conv.kernel, -1)).permute(0, 3, 1, 2)
        return F.conv2d(x, kernel, self.bias, *self.conv[1:])


def case(rng: Random) -> str:
    """Build a layer, change it a few times, and multiply after every change."""
    torch.manual_seed(rng.randrange(2**31))
    while (stored := _built(rng)) is None:
        pass  # this format cannot hold that weight
    for _ in range(rng.randrange(1, 7)):
        for _ in range(rng.choice((0, 1, 4))):
            _compare(rng, stored)
        stored = rng.choice(CHANGES)(rng, stored)
    _compare(rng, stored)
    return "equal"


def prepare() -> None:
    """Fill what nobody has written with NaN, so that reading it shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)


def _built(rng: Random) -> Stored | None:
    conv = rng.choice(CONVS) if rng.random() < 0.4 else None
    taps = 1 if conv is None else conv.kernel[0] * conv.kernel[1]
    name = rng.choice((*FORMATS, *OFTEN))
    tile = rng.choice(TILES if name == "jit" else (*TILES, (1, 1), (5, 3)))
    N, C = (rng.choice((1, 3, 8, 16, 24, 33, 50, 64)) for _ in range(2))
    weight = _pruned(rng, name, (N, taps, C), tile).to(rng.choice(DTYPES))
    options = rng.choice(OPTIONS.get(name, ({},)))
    try:
        form = FORMATS[name].from_dense(weight, tile, taps=taps, **options)
    except ValueError:
        return None
    bias = torch.randn(N, dtype=weight.dtype) if rng.random() < 0.7 else None
    parameter = None if bias is None else nn.Parameter(bias.clone())
    if conv is None:
        layer = SparseLinear.from_format(form, parameter)
    else:
        layer = SparseConv2d.from_format(form, parameter, nn.Conv2d(C, N, *conv))
    return Stored(layer, weight, bias, conv)


def _pruned(rng: Random, name: str, shape: tuple[int, int, int], tile: tuple[int, int]) -> Tensor:
    N, taps, C = shape
    rows, cols = -(-N // tile[0]), -(-C // tile[1])
    live = torch.rand(rows, taps, cols) < rng.choice((0, 0.1, 0.5, 0.9, 1))
    mask = live.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 2)[:N, :, :C]
    if name in ("nm", "cusparselt"):
        mask = mask & (torch.arange(C) % 4 % 3 == 0)
    return (torch.randn(N, taps, C) * mask).flatten(1)


# ---- changes


def _to(rng: Random, stored: Stored) -> Stored:
    dtype = rng.choice(DTYPES)
    rng.choice((lambda m: m.to(dtype), lambda m: m.to(dtype=dtype, device="cpu")))(stored.layer)
    return _mirrored(stored, lambda tensor: tensor.to(dtype))


def _half(rng: Random, stored: Stored) -> Stored:
    name = rng.choice(("half", "double", "float", "bfloat16"))
    getattr(stored.layer, name)()
    return _mirrored(stored, lambda tensor: getattr(tensor, name)())


def _to_meta_and_back(rng: Random, stored: Stored) -> Stored:
    """Numbers are lost on the meta device, and come back with a state."""
    state = {key: tensor.clone() for key, tensor in stored.layer.state_dict().items()}
    stored.layer.to("meta")
    x = _input(rng, stored).to("meta")
    with torch.no_grad():
        y, expected = stored.layer(x), _mirrored(copy.copy(stored), lambda t: t.to("meta")).plain(x)
    assert y.is_meta and y.shape == expected.shape and y.dtype == expected.dtype, "a product on the meta device"
    stored.layer.to_empty(device="cpu")
    if rng.random() < 0.5:
        with torch.no_grad():
            _try(stored.layer, _input(rng, stored))  # places that nobody has written: anything but a crash
    stored.layer.load_state_dict(state)
    return stored


def _state_of_another(rng: Random, stored: Stored) -> Stored:
    factor = rng.choice((2.0, -0.5))
    state = {key: tensor * factor if "values" in key else tensor for key, tensor in stored.layer.state_dict().items()}
    stored.layer.load_state_dict(state, assign=rng.random() < 0.3)
    return Stored(stored.layer, stored.weight * factor, stored.bias, stored.conv)


def _copied(rng: Random, stored: Stored) -> Stored:
    layer = copy.deepcopy(stored.layer) if rng.random() < 0.5 else pickle.loads(pickle.dumps(stored.layer))
    return Stored(layer, stored.weight, stored.bias, stored.conv)


def _written_to(rng: Random, stored: Stored) -> Stored:
    with torch.no_grad():
        stored.format.values.mul_(2)
    return Stored(stored.layer, stored.weight * 2, stored.bias, stored.conv)


def _replaced(rng: Random, stored: Stored) -> Stored:
    stored.format.values = nn.Parameter(stored.format.values.detach() * -1)
    return Stored(stored.layer, -stored.weight, stored.bias, stored.conv)


def _frozen(rng: Random, stored: Stored) -> Stored:
    stored.layer.requires_grad_(rng.random() < 0.5)
    return stored


def _spoilt_places(rng: Random, stored: Stored) -> Stored:
    """Write nonsense into the places: an error or nonsense, never memory of others; then they are put back."""
    buffers = {key: tensor.clone() for key, tensor in stored.format.named_buffers() if not tensor.is_floating_point()}
    for tensor in stored.format.buffers():
        if not tensor.is_floating_point() and tensor.numel() and tensor.dtype != torch.bool:
            nonsense = rng.choice((-1, 7, 100, 2**31 - 1)) % torch.iinfo(tensor.dtype).max
            tensor.view(-1)[rng.randrange(tensor.numel())] = nonsense
    with torch.no_grad():
        _try(stored.layer, _input(rng, stored))
    for key, tensor in stored.format.named_buffers():
        if key in buffers:
            tensor.copy_(buffers[key])
    return stored


CHANGES: tuple[Callable[[Random, Stored], Stored], ...] = (
    *(_to, _half, _half, _to_meta_and_back, _state_of_another, _copied, _written_to, _replaced, _frozen),
    _spoilt_places,
)


def _mirrored(stored: Stored, change: Callable[[Tensor], Tensor]) -> Stored:
    bias = None if stored.bias is None else change(stored.bias)
    return Stored(stored.layer, change(stored.weight), bias, stored.conv)


# ---- products


def _compare(rng: Random, stored: Stored) -> None:
    x = _strange(rng, stored) if rng.random() < 0.25 else _input(rng, stored)
    if x.dtype != stored.weight.dtype and (x.numel() == 0 or stored.weight.count_nonzero() == 0):
        return  # where nothing is multiplied, torch itself takes one dtype and refuses another
    with rng.choice(MODES)():
        y, refusal = _try(stored.layer, x)
        expected, plain_refusal = _try(stored.plain, x)
    if plain_refusal is not None:
        assert refusal is not None, f"took what the plain formula does not: {plain_refusal}"
        return
    assert refusal is None, f"refused {tuple(x.shape)} {x.dtype}: {refusal}"
    assert y.shape == expected.shape and y.dtype == expected.dtype, f"{tuple(y.shape)} {y.dtype}"
    exact = _mirrored(stored, Tensor.double).plain(x.detach().double())
    terms = _mirrored(stored, lambda tensor: tensor.double().abs()).plain(x.detach().double().abs())
    error, size = (y.double() - exact).norm(), max(2 * exact.norm(), terms.norm() / 2)  # a few sums may cancel
    assert error <= TOLERANCE[x.dtype] * size, f"error {error / size:.1e} of terms, {x.dtype}, {tuple(x.shape)}"


def _try(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor | None, Exception | None]:
    try:
        return function(x), None
    except REFUSALS as error:
        return None, error


def _input(rng: Random, stored: Stored) -> Tensor:
    """An input that fits, in some order of memory, with NaN around it."""
    C = stored.weight.shape[1] // stored.format.taps
    if stored.conv is None:
        shape = (*rng.choice(((), (1,), (3,), (17,), (0,), (2, 5), (2, 0, 3), (40,))), C)
    else:
        shape = (rng.choice((0, 1, 2)), C, rng.choice((3, 4, 7)), rng.choice((3, 6)))
        shape = shape[1:] if rng.random() < 0.1 else shape
    x = torch.randn(shape, dtype=stored.weight.dtype)
    return rng.choice(ORDERS)(x).requires_grad_(rng.random() < 0.2)


def _strange(rng: Random, stored: Stored) -> Tensor:
    """An input that may not fit."""
    x = _input(rng, stored).detach()
    dim = -1 if stored.conv is None else -3
    match rng.randrange(4):
        case 0:
            return torch.cat([x, x.narrow(dim, 0, 1)], dim)
        case 1:
            return x.narrow(dim, 0, x.shape[dim] - 1)
        case 2:
            return x.to(rng.choice((*DTYPES, torch.int64, torch.bool)))
        case _:
            return x.reshape(-1) if rng.random() < 0.5 else x[None, None]


def _guarded(x: Tensor) -> Tensor:
    around = torch.full((x.numel() + 128,), torch.nan, dtype=x.dtype)
    around[64 : 64 + x.numel()] = x.flatten()
    return around[64 : 64 + x.numel()].view(x.shape)


def _spread(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _turned(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _expanded(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape) if x.dim() > 1 and x.shape[0] else x


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _negated(x: Tensor) -> Tensor:
    return torch._neg_view(x)


ORDERS = (_guarded, _guarded, _spread, _turned, _expanded, _channels_last, _negated)
