"""Every method against its formula, on a model small enough to compute it in plain torch."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import NM, Block, Channel, WeightShape
from smart_train import PRUNERS
from smart_train.masks import erk, uniform
from smart_train.pruners.activation import helping
from smart_train.pruners.catro import scatter, trace_ratio
from smart_train.pruners.filter_groups import hard, shares
from smart_train.pruners.gdp import polarised
from smart_train.pruners.lookahead import lookahead, neighbours
from smart_train.pruners.pdp import thresholds
from smart_train.pruners.rl import noised, towards
from smart_train.pruners.straight import ramp
from smart_train.schedule import cubic

from .small_models import make_mlp

TILE = Block(4, 4)
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (6,), generator=torch.Generator().manual_seed(2))


def make(name, pattern=TILE, sparsity=0.75, search_steps=5, **settings):
    torch.manual_seed(0)
    model = make_mlp()
    pruner = PRUNERS[name](model, pattern, pattern.sparsity or sparsity, search_steps=search_steps, **settings)
    return model, pruner


def loss(model):
    return F.cross_entropy(model(X), Y)


def run_plain(weights, biases):
    """The loss of ``make_mlp`` for given weights of all three layers."""
    hidden = X
    for place, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = hidden @ weight.T + bias
        hidden = torch.tanh(hidden) if place < 2 else hidden
    return F.cross_entropy(hidden, Y)


def plain_of(model):
    """Detached weights and biases of ``make_mlp``, those under the masks."""
    layers = (model[0], model[2], model[4])
    return [layer._parameters["weight"].detach().clone() for layer in layers], [layer.bias.detach() for layer in layers]


def gradients_at(model, masks):
    """Of the loss by the masked weights of the first two layers."""
    weights, biases = plain_of(model)
    masked = [weight * spread(mask, weight) for weight, mask in zip(weights, masks, strict=False)]
    masked = [each.requires_grad_() for each in masked]
    return weights, torch.autograd.grad(run_plain([*masked, weights[2]], biases), masked)


def spread(mask, weight, pattern=TILE):
    return pattern.expand(mask, WeightShape(len(weight), 1, weight.shape[1]))[:, 0]


def tiles(values):
    """Sums over 4 x 4 tiles."""
    return values.unflatten(1, (-1, 4)).unflatten(0, (-1, 4)).sum((1, 3))


def smart():
    """s = sqrt(mean over batches of (sum over the tile of w dL/dw)^2), standardised once over all tiles of the pool."""
    model, pruner = make("smart", init="saliency", prepare_batches=3)
    ones = [torch.ones(4, 2), torch.ones(4, 4)]
    weights, gradients = gradients_at(model, ones)
    root = torch.cat([tiles(w * g).flatten().abs() for w, g in zip(weights, gradients, strict=False)])
    pruner.prepare([(X, Y)] * 3, lambda x, y: F.cross_entropy(model(x), y))
    pruner.step()
    expected = (root - root.mean()) / root.std(correction=0)
    torch.testing.assert_close(flat_scores(pruner), expected, rtol=1e-4, atol=1e-5)


def flat_scores(pruner):
    return torch.cat([layer.scores.detach().flatten() for layer in pruner.layers.values()])


def oneshot():
    """The mean magnitude of a tile, standardised over its layer."""
    model, pruner = make("oneshot")
    pruner.step()
    for weight, layer in zip(plain_of(model)[0], pruner.layers.values(), strict=False):
        means = tiles(weight.abs()) / 16
        torch.testing.assert_close(layer.scores.detach(), (means - means.mean()) / means.std(correction=0))


def taylor():
    """The sum over batches of (sum over the tile of w dL/dw)^2."""
    model, pruner = make("taylor")
    weights, gradients = gradients_at(model, [torch.ones(4, 2), torch.ones(4, 4)])
    pruner.prepare([(X, Y)] * 4, lambda x, y: F.cross_entropy(model(x), y))
    for weight, gradient, layer in zip(weights, gradients, pruner.layers.values(), strict=False):
        torch.testing.assert_close(layer.scores.detach(), 4 * tiles(weight * gradient).square(), rtol=1e-4, atol=1e-9)


def gradual():
    """Densities uniform, or in proportion to (n_in + n_out) / (n_in n_out), and each layer's largest tiles in them."""
    model, pruner = make("gradual", spread="erk", search_steps=2)
    (pool,) = pruner.pools
    raw = {"0": (8 + 16) / (8 * 16), "2": (16 + 16) / (16 * 16)}
    scale = (0.25 * (128 + 256)) / sum(raw[name] * size for name, size in (("0", 128), ("2", 256)))
    assert erk(pool) == pytest.approx({name: scale * value for name, value in raw.items()})
    assert uniform(pool) == pytest.approx({"0": 0.25, "2": 0.25})
    for _ in range(3):
        pruner.step()
    kept = {name: int(layer.gate.mask.sum()) for name, layer in pruner.layers.items()}
    assert sum(kept.values()) == 6 and abs(kept["0"] - 8 * erk(pool)["0"]) < 1
    best = (tiles(plain_of(model)[0][0].abs()).flatten()).topk(kept["0"]).indices
    assert pruner.layers["0"].gate.mask.flatten()[best].eq(1).all()


def pdp():
    """The gradient of the weights through mask = sigmoid((energy - threshold) / softness), energy standardised."""
    model, pruner = make("pdp", softness=0.5)
    for _ in range(4):
        pruner.step()
    loss(model).backward()
    pruner.after_backward()
    weights, biases = plain_of(model)
    fixed = thresholds(pruner.pools[0], pruner.masked.hard_masks(cubic(pruner.progress)))
    learnt = [weight.requires_grad_() for weight in weights[:2]]
    masked = []
    for name, weight in zip(pruner.layers, learnt, strict=True):
        energy = tiles(weight.square()) / 16
        scaled = (energy - energy.detach().mean()) / energy.detach().std(correction=0)
        mask = torch.sigmoid((scaled - fixed[name]) / 0.5)
        torch.testing.assert_close(pruner.leaves[name].detach(), mask.detach(), rtol=1e-4, atol=1e-6)
        masked.append(weight * spread(mask, weight))
    expected = torch.autograd.grad(run_plain([*masked, weights[2]], biases), learnt)
    for layer, gradient in zip(pruner.layers.values(), expected, strict=True):
        torch.testing.assert_close(layer.raw_weight.grad, gradient, rtol=1e-3, atol=1e-6)


def pdp_groups():
    """In a group the threshold is between the n-th and the next of its scores."""
    _, pruner = make("pdp", NM(2, 4))
    pruner.step()
    held = thresholds(pruner.pools[0], {})
    for name, layer in pruner.layers.items():
        ordered = layer.scores.detach().view(-1, 4).sort(descending=True).values
        middle = (ordered[:, 1] + ordered[:, 2]) / 2
        torch.testing.assert_close(held[name].view(-1, 4), middle[:, None].expand(-1, 4))
        assert ((layer.gate.mask.detach() > 0.5).view(-1, 4).sum(1) == 2).all()


def acdc():
    """Equal phases, sparse first; what comes back is 0, and momentum with it; a channel that was gone is as before."""
    model, pruner = make("acdc", search_steps=8, phases=2)
    optimizer = torch.optim.SGD(pruner.weights(), lr=0.1, momentum=0.9)
    pruner.optimizers = [optimizer]
    sparse = []
    for step in range(9):
        before, raw = model[2].weight.detach().eq(0), model[2]._parameters["weight"].detach().clone()
        pruner.step()
        if step in (2, 6):
            gone = before.all(1)
            assert model[2].raw_weight[~gone][before[~gone]].eq(0).all() and before[~gone].any()
            assert model[2].raw_weight[gone].equal(raw[gone])
            assert all(state["momentum_buffer"].eq(0).all() for state in optimizer.state.values())
        sparse.append(model[2].gate is not None)
        loss(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sparse == [True, True, False, False, True, True, False, False, True]


def straight():
    """The gradient is the sum over the tile of dL/dw_masked w, dead or alive; the budget falls along a sigmoid."""
    model, pruner = make("straight", search_steps=11)
    for _ in range(9):
        pruner.step()
    loss(model).backward()
    pruner.after_backward()
    masks = list(pruner.masks().values())
    assert sum(int(mask.sum()) for mask in masks) == round(24 - 18 * ramp(0.8))
    assert (ramp(0), ramp(0.5), ramp(1)) == pytest.approx((0, 0.5, 1))
    weights, gradients = gradients_at(model, masks)
    for weight, gradient, layer in zip(weights, gradients, pruner.layers.values(), strict=False):
        torch.testing.assert_close(layer.scores.grad, tiles(weight * gradient), rtol=1e-4, atol=1e-7)


def srste():
    """dL/dw_masked + decay (1 - mask) w."""
    for pattern in (NM(2, 4), TILE):
        model, pruner = make("srste", pattern, decay=0.01)
        pruner.step()
        loss(model).backward()
        pruner.after_backward()
        weights, biases = plain_of(model)
        masks = [spread(mask, w, pattern) for mask, w in zip(pruner.masks().values(), weights, strict=False)]
        masked = [(w * mask).requires_grad_() for w, mask in zip(weights, masks, strict=False)]
        gradients = torch.autograd.grad(run_plain([*masked, weights[2]], biases), masked)
        for layer, mask, weight, gradient in zip(pruner.layers.values(), masks, weights, gradients, strict=False):
            expected = gradient + 0.01 * (1 - mask) * weight
            torch.testing.assert_close(layer.raw_weight.grad, expected, rtol=1e-3, atol=1e-6)


def lookahead_scores():
    """w_ij^2 |W_before[j, :]|^2 |W_after[:, i]|^2, with the gamma^2 of BatchNorms."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, groups=6))
    nn.init.normal_(net[1].weight)
    pruner = PRUNERS["lookahead"](net, Block(1, 1), 0.5, search_steps=1, filter_fn=lambda _, name: name in ("0", "2"))
    before, after = neighbours(net)
    gamma, middle = net[1].weight.detach(), net[2].raw_weight.detach()[:, :, 0, 0]
    rows, columns = net[0].raw_weight.detach(), net[3].weight.detach()
    for i in range(6):
        for j in range(4):
            around = rows[j].square().sum() * gamma[j] ** 2 * columns[i].square().sum()
            expected = middle[i, j] ** 2 * around
            got = lookahead(net[2], before[net[2]], after[net[2]])[i, 0, j]
            torch.testing.assert_close(got, expected)
    first = lookahead(net[0], before.get(net[0]), after[net[0]])[1, 5, 2]
    expected = rows[1, 2].flatten()[5] ** 2 * middle[:, 1].square().sum() * gamma[1] ** 2
    torch.testing.assert_close(first, expected)
    pruner.step()
    assert all(layer.scores.norm() == pytest.approx(1) for layer in pruner.layers.values())


def gdp():
    """s^2 / (s^2 + eps); the penalty is what is kept above the budget; what is kept is folded into the weights."""
    scores = torch.tensor([0.0, 0.1, 1.0], requires_grad=True)
    polarised(scores, 0.1).sum().backward()
    torch.testing.assert_close(scores.grad, 2 * scores.detach() * 0.1 / (scores.detach().square() + 0.1).square())
    model, pruner = make("gdp", strength=2.0)
    pruner.step()
    masks = [
        layer.scores.detach().square() / (layer.scores.detach().square() + 0.1) for layer in pruner.layers.values()
    ]
    kept = sum(float(mask.sum()) for mask in masks) * 16 / (0.25 * 384)
    assert pruner.penalty().item() == pytest.approx(2 * (kept - 1), rel=1e-5)
    before = model[2].weight.detach().clone()
    with torch.no_grad():
        pruner.layers["2"].scores[0] = torch.tensor([0.049, -0.049, 0.051, -0.051])
    pruner.after_step()
    torch.testing.assert_close(pruner.layers["2"].scores[0], torch.tensor([0.0, 0.0, 0.051, -0.051]))
    pruner.harden()
    torch.testing.assert_close(model[2].weight.detach(), before * spread(model[2].gate.mask, before))


def dais():
    """sigmoid(score / T), T from 1 to 0.02; every third step is for the scores alone; log of kept over budget."""
    model, pruner = make("dais", strength=1.0, every=3)
    for step in range(1, 6):
        pruner.step()
        temperature = 1 / (1 + 49 * (step - 1) / 4)
        for name, layer in pruner.layers.items():
            expected = torch.sigmoid(layer.scores.detach() / temperature)
            torch.testing.assert_close(pruner.leaves[name].detach(), expected)
        flat = torch.cat([leaf.detach().flatten() for leaf in pruner.leaves.values()])
        kept = float(flat.sum()) * 16 / (0.25 * 384)
        assert pruner.penalty().item() == pytest.approx(float(flat.mean()) + abs(torch.log(torch.tensor(kept)).item()))
        loss(model).backward()
        pruner.after_backward()
        assert all((parameter.grad is None) == (step == 3) for parameter in pruner.weights())
        assert all((scores.grad is None) == (step != 3) for scores in pruner.parameters())
        model.zero_grad()


def dhp():
    """z = sign(z) max(|z| - shrinkage, 0) after each step, as long as more than the budget is alive."""
    _, pruner = make("dhp", shrinkage=0.25)
    pruner.step()
    start = flat_scores(pruner)
    assert all(leaf.eq(1).all() for leaf in pruner.leaves.values())
    expected = torch.distributions.Normal(0, 1).icdf(0.5 + (torch.arange(24) + 0.5) / 48)
    torch.testing.assert_close(start.sort().values, expected)
    with torch.no_grad():
        for layer in pruner.layers.values():
            layer.scores.copy_(torch.linspace(-1, 1, layer.scores.numel()).view_as(layer.scores))
    before = flat_scores(pruner)
    pruner.after_step()
    shrunk = before.sign() * (before.abs() - 0.25).clamp_min(0)
    torch.testing.assert_close(flat_scores(pruner), shrunk)
    with torch.no_grad():
        for layer in pruner.layers.values():
            layer.scores.zero_()
        pruner.layers["0"].scores[0, 0] = 0.5  # one of the six tiles that may stay
    pruner.after_step()
    assert flat_scores(pruner).max() == 0.5


def group_penalty(logits, weights, noise=0.0, temperature=0.5):
    """(sum of p^.5)^2 (groups / rows)^1.5 sum over columns of tiles of |p W|, for p = softmax((logits + noise) / T)."""
    member = ((logits + noise) / temperature).softmax(0)
    size = member.sqrt().sum(1).square() * (len(logits) / logits.shape[1]) ** 1.5
    per_row = member.repeat_interleave(4, 1)  # of weights, 4 to a row of tiles
    squares = [(per_row[k][:, None] * weights).unflatten(1, (-1, 4)).square().sum((0, 2)) for k in (0, 1)]
    return (size * (torch.stack(squares) + 1e-20).sqrt().sum(1)).sum()


def dsp():
    """Logits get -d<dL/dW, d penalty/dW>/d logits; weights take a step along the penalty of hard groups, on a ramp."""
    model, pruner = make("dsp", strength=0.3, search_steps=5)
    for _ in range(3):
        pruner.step()
    for number, logits in enumerate(pruner.logits.values()):
        logits.copy_(torch.randn(logits.shape, generator=torch.Generator().manual_seed(number)))
    loss(model).backward()
    pruner.after_backward()
    weights, gradients = gradients_at(model, [torch.ones(4, 2), torch.ones(4, 4)])
    generator = torch.Generator().manual_seed(3)
    for weight, gradient, logits in zip(weights, gradients, pruner.logits.values(), strict=False):
        noise = -torch.empty(logits.shape).exponential_(generator=generator).log()
        free, moved = logits.detach().requires_grad_(), weight.clone().requires_grad_()
        (direction,) = torch.autograd.grad(group_penalty(free, moved, noise), moved, create_graph=True)
        (expected,) = torch.autograd.grad(-(gradient * direction).sum(), free)
        torch.testing.assert_close(logits.grad, expected, rtol=1e-3, atol=1e-6)
    pruner.after_step()
    expected, far = [], []
    for weight, logits in zip(weights, pruner.logits.values(), strict=False):
        moved = weight.clone().requires_grad_()
        sure = 1000 * hard(logits).float()  # the likeliest group for certain
        expected.append(torch.autograd.grad(group_penalty(sure, moved), moved)[0])
        far.append((tiles(weight.square()) / tiles(expected[-1].square())).sqrt())  # all weights of a tile shrink alike
    step = 0.3 * torch.cat([each.flatten() for each in far]).mean() * 2 * 0.5 / 5
    for weight, after, way, reach in zip(weights, plain_of(model)[0], expected, far, strict=False):
        reached = spread((reach <= step).float(), weight).bool()
        torch.testing.assert_close(after, torch.where(reached, 0, weight - step * way), rtol=1e-4, atol=1e-6)


def dsp_order():
    """Of a group goes the column with the least energy first, and by the share of the group's energy it is ranked."""
    energy = torch.tensor([[1.0, 5.0, 2.0], [9.0, 9.0, 9.0], [3.0, 1.0, 1.0]])
    got = shares(hard(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])), energy)
    # the columns weigh 4, 6 and 3: gone are 1, 3 of the last, 4, 7 of the first, 8 and 13 of the middle one
    torch.testing.assert_close(got[[0, 2]], torch.tensor([[4.0, 13 + 5, 3.0], [7.0, 8.0, 1.0]]) / 13)
    torch.testing.assert_close(got[1], torch.tensor([9.0, 18.0, 27.0 + 9]) / 27)


def catro():
    """Of all choices of so many channels, the one with the largest sum of S_b over the sum of S_w."""
    torch.manual_seed(3)
    for keep in (1, 3, 5):
        between, within = torch.rand(8), torch.rand(8) + 0.01
        ratios = {c: float(between[list(c)].sum() / within[list(c)].sum()) for c in combinations(range(8), keep)}
        best = trace_ratio(between, within, keep).topk(keep).indices
        assert tuple(sorted(best.tolist())) == max(ratios, key=ratios.get)
    features, classes = torch.randn(20, 3), torch.arange(20) % 4
    between, within = scatter(features, classes)
    torch.testing.assert_close(between + within, (features - features.mean(0)).square().sum(0), rtol=1e-4, atol=1e-4)


def activation():
    """The sum over positions of max(0, -a dL/da), divided by the mean over the layer."""
    model, pruner = make("activation", Channel(), 0.5, prepare_batches=1)
    weights, biases = plain_of(model)
    first = (X @ weights[0].T + biases[0]).requires_grad_()
    second = torch.tanh(first) @ weights[1].T + biases[1]
    value = F.cross_entropy(torch.tanh(second) @ weights[2].T + biases[2], Y)
    (gradient,) = torch.autograd.grad(value, [first])
    expected = (first * -gradient).clamp_min(0).sum(0)
    torch.testing.assert_close(helping(first.detach(), gradient), expected.detach())
    pruner.prepare([(X, Y)], lambda x, y: F.cross_entropy(model(x), y))
    got = pruner.layers["0"].scores.detach()[:, 0]
    torch.testing.assert_close(got, (expected / expected.mean()).detach(), rtol=1e-3, atol=1e-5)


def rl():
    """Distributions stay distributions, move by at most a fifth, and the masks are those of the better trials."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.5, 0.3, 0.2])
    trial = noised(shares, generator)
    moved = towards(shares, torch.tensor([0.9, 0.05, 0.05]))
    assert trial.sum() == pytest.approx(1) and trial.min() > 0
    clipped = shares * torch.tensor([1.2, 0.8, 0.8])
    torch.testing.assert_close(moved, clipped / clipped.sum())
    model, pruner = make("rl", prepare_batches=4)
    masks = []
    without = pruner._loss_without
    pruner._loss_without = lambda order, taken, *rest: (masks.append(taken), without(order, taken, *rest))[1]
    pruner.prepare([(X, Y)] * 4, lambda x, y: F.cross_entropy(model(x), y))
    assert len(masks) == 8 and masks[-1].sum() == pytest.approx(18, rel=0.01)  # of 24 tiles
    pruner.step()
    lost = [int((layer.gate.mask == 0).sum()) for layer in pruner.layers.values()]
    assert any(all(abs(a - b) <= 1 for a, b in zip(lost, taken.tolist(), strict=True)) for taken in masks[-2:])


FORMULAS = {
    "smart": [smart],
    "oneshot": [oneshot],
    "taylor": [taylor],
    "gradual": [gradual],
    "pdp": [pdp, pdp_groups],
    "acdc": [acdc],
    "straight": [straight],
    "srste": [srste],
    "lookahead": [lookahead_scores],
    "gdp": [gdp],
    "dais": [dais],
    "dhp": [dhp],
    "dsp": [dsp, dsp_order],
    "catro": [catro],
    "activation": [activation],
    "rl": [rl],
}


@pytest.mark.parametrize("formula", [each for found in FORMULAS.values() for each in found], ids=lambda f: f.__name__)
def test_formula(formula):
    formula()


def test_every_method_is_held_to_its_formula():
    assert FORMULAS.keys() == PRUNERS.keys()
