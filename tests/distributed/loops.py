"""A small training loop, in one process or in several that each see a part of every batch."""

import warnings
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from smart_kernels import NM, Block, Channel, mask_, slim_
from smart_train import PRUNERS, SmartPruner
from tests.train.small_models import make_mlp
from tests.train.test_pruners import CHANNELS

DENSE, SEARCH, FINETUNE = 2, 5, 3
STEPS = DENSE + SEARCH + FINETUNE


def batches(dtype, micro=1):
    """(STEPS, micro) pairs of this process's rows of x (8, 8) and target (8, 4)."""
    generator = torch.Generator().manual_seed(1)
    x, target = (torch.randn(STEPS, micro, 8, n, generator=generator).to(dtype) for n in (8, 4))
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return x[:, :, rank::count], target[:, :, rank::count]


def make(how, pattern=None, dtype=torch.float32, **settings):
    """A model of random weights, ready to run, and its pruner.

    Args:
        how: "alone"; the name of who comes first, "pruner" or "wrapper"; "inner" for a wrapped model whose wrapper the
            pruner does not see; "shards" of everything, "shards of weights" with scores that are left out, or
            "shards in two copies".
    """
    torch.manual_seed(dist.get_rank() if how in ("pruner", "wrapper", "inner") else 0)  # the wrapper makes them equal
    model = make_mlp().to(dtype)
    run = DistributedDataParallel(model) if how in ("wrapper", "inner") else model
    settings = {"sparsity": 0.5, "search_steps": SEARCH, "dense_steps": DENSE} | settings
    pruner = SmartPruner(run if how == "wrapper" else model, pattern or Block(3, 4), **settings)
    for scores in pruner.parameters():
        scores.data = scores.data.to(dtype)
    if how == "pruner":
        run = DistributedDataParallel(model)
    if how.startswith("shards"):
        ignored = set(pruner.parameters()) if how == "shards of weights" else None
        shard(model, copies=2 if how == "shards in two copies" else 1, ignored_params=ignored)
    return run, pruner


def shard(model, copies=1, **settings):
    count = dist.get_world_size()
    mesh = init_device_mesh("cpu", (copies, count // copies), mesh_dim_names=("copies", "shards"))
    mesh = mesh if copies > 1 else mesh["shards"]
    fully_shard(model[2], mesh=mesh, **settings)
    fully_shard(model, mesh=mesh, **settings)


def make_optimizer(pruner):
    groups = [{"params": pruner.weights(), "lr": 0.05}, pruner.param_group(lr=2.0)]
    return torch.optim.SGD(groups)


def train(how, dtype, micro=1, pattern=None, **settings):
    """Masks of every step and what is left in the end; nothing is said of it."""
    warnings.filterwarnings("error", "step|the scores|the model")
    run, pruner = make(how, pattern, dtype, **settings)
    optimizer = make_optimizer(pruner)
    masks = [advance(run, pruner, optimizer, parts) for parts in zip(*batches(dtype, micro), strict=True)]
    return {"masks": masks, "state": whole(pruner.model.state_dict()), "report": pruner.report()}


def advance(run, pruner, optimizer, parts):
    """One optimizer step over the micro-batches of ``parts``; returns its masks."""
    pruner.step()
    masks = {name: mask.clone() for name, mask in pruner.masks().items()}
    for number, (x, target) in enumerate(zip(*parts, strict=True), 1):
        apart = number < len(parts[0]) and isinstance(run, DistributedDataParallel)
        with run.no_sync() if apart else nullcontext():
            ((run(x) - target).square().mean() / len(parts[0])).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        run(x)  # an evaluation, which leaves the root of fully_shard whole
    return masks


def begin(how, steps):
    """The first steps; returns the full states, as any number of processes can take them up."""
    run, pruner = make(how, dtype=torch.float64)
    optimizer = make_optimizer(pruner)
    for parts in list(zip(*batches(torch.float64), strict=True))[:steps]:
        advance(run, pruner, optimizer, parts)
    model = get_model_state_dict(run, options=StateDictOptions(full_state_dict=True))
    return {"model": model, "pruner": pruner.state_dict()}


def go_on(how, taken):
    """The rest of the steps, from those states."""
    run, pruner = make(how, dtype=torch.float64)
    optimizer = make_optimizer(pruner)
    set_model_state_dict(run, taken["model"], options=StateDictOptions(full_state_dict=True))
    pruner.load_state_dict(taken["pruner"])
    rest = list(zip(*batches(torch.float64), strict=True))[pruner.steps :]
    masks = [advance(run, pruner, optimizer, parts) for parts in rest]
    return {"masks": masks, "state": whole(pruner.model.state_dict()), "report": pruner.report()}


def whole(state):
    """The tensors of a state_dict, without shards."""
    return {name: each.full_tensor() if hasattr(each, "full_tensor") else each.clone() for name, each in state.items()}


def refusal(action):
    """The text of the ValueError that an action raises."""
    try:
        action()
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def refusals():
    """Return the refusals, one text each."""
    sharded, cut = make_mlp(), make("shards")[1]
    shard(sharded)
    cut.harden()
    plain = make_mlp()
    shard(plain)
    attention = DistributedDataParallel(nn.TransformerEncoderLayer(8, 2, 16))
    _, pruner = make("pruner")
    for _ in range(DENSE + 1):
        pruner.step()
    pruner.parameters()[0].data += dist.get_rank()
    settings = {"pattern": Block(4, 4), "sparsity": 0.5, "search_steps": 3}
    bigger = SmartPruner(inner := make_mlp(), **settings)
    wrapper = DistributedDataParallel(nn.Sequential(inner))
    rounded = SmartPruner(model := make_mlp(), NM(2, 4), search_steps=3)
    shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    return {
        "shards first": refusal(lambda: SmartPruner(sharded, **settings)),
        "finalize": refusal(cut.finalize),
        "slim_": refusal(lambda: slim_(plain, torch.randn(2, 8))),
        "mask_": refusal(lambda: mask_(plain, Block(4, 4))),
        "attention": refusal(lambda: SmartPruner(attention, **settings)),
        "still plain": isinstance(attention.module.self_attn, nn.MultiheadAttention) and wrapper is not None,
        "unlike": refusal(pruner.step),
        "attention inside": refusal(lambda: SmartPruner(attention.module, **settings)),
        "in a bigger wrapper": refusal(bigger.step),
        "rounded": refusal(rounded.step),
    }


def alone_in_company():
    """Each process trains another model, with a group of its own."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    torch.manual_seed(dist.get_rank())
    model = make_mlp()
    pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=3, process_group=groups[dist.get_rank()])
    optimizer = make_optimizer(pruner)
    for parts in list(zip(*batches(torch.float32), strict=True))[: 4 + dist.get_rank()]:
        advance(model, pruner, optimizer, parts)
    pruner.finalize()
    return model.state_dict()


def finalized_in_a_wrapper():
    """Finalize a wrapped model, train on, and return what is left."""
    run, pruner = make("pruner", dtype=torch.float64)
    optimizer = make_optimizer(pruner)
    for parts in zip(*batches(torch.float64), strict=True):
        advance(run, pruner, optimizer, parts)
    kept = pruner.finalize()["kept_sparsity"]
    zeros = sum(int((run.module[place].weight == 0).sum()) for place in (0, 2))
    gradients = []
    for x, target in zip(*(part[:2, 0] for part in batches(torch.float64)), strict=True):
        run.zero_grad()
        (run(x) - target).square().mean().backward()
        gradients.append(run.module[0].weight.grad.clone())
    return {"kept": kept, "zeros": zeros, "gradients": gradients, "names": list(run.module.state_dict())}


def methods():
    """The masks of every method, in a wrapper, in the last step of the search and afterwards."""
    found = {}
    for name, method in PRUNERS.items():
        torch.manual_seed(dist.get_rank())
        pattern = Channel() if name in CHANNELS else Block(4, 4)
        pruner = method(make_mlp(), pattern, 0.5, search_steps=SEARCH, dense_steps=DENSE)
        run = DistributedDataParallel(pruner.model)
        optimizer = make_optimizer(pruner)
        parts = list(zip(*batches(torch.float32), strict=True))
        seen = [(x[0], target[0], torch.arange(len(x[0])) % 2) for x, target in parts[: pruner.prepare_batches]]
        pruner.prepare(seen, lambda x, target, classes, run=run: (run(x) - target).square().mean())
        masks = [advance(run, pruner, optimizer, each) for each in parts]
        found |= {f"{name} {step}": masks[step] for step in (DENSE + SEARCH - 1, -1)}
    return found


def options():
    """Masks, weights and norms of gradients under each option of the wrapper, and of shards in half precision."""
    found = {}
    for name in ("gradient_as_bucket_view", "static_graph", "find_unused_parameters", "around more", "bfloat16"):
        torch.manual_seed(dist.get_rank() if name != "bfloat16" else 0)
        model = make_mlp()
        pruner = SmartPruner(model, Block(4, 4), 0.5, search_steps=SEARCH, dense_steps=DENSE)
        run = _wrapped(name, model, pruner)
        optimizer = make_optimizer(pruner)
        norms = []
        optimizer.register_step_pre_hook(lambda *_, own=model, to=norms: to.append(_norm(own)))
        masks = [advance(run, pruner, optimizer, parts) for parts in zip(*batches(torch.float32), strict=True)]
        found[name] = {"masks": masks[-1], "state": whole(model.state_dict()), "norms": norms}
    return found


def _wrapped(name, model, pruner):
    if name == "bfloat16":
        shard(model.bfloat16(), ignored_params=set(pruner.parameters()))
        return lambda x: model(x.bfloat16()).float()
    if name == "around more":
        return DistributedDataParallel(nn.Sequential(model), find_unused_parameters=True)
    return DistributedDataParallel(model, **{name: True})


def _norm(model):
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return sum(float(gradient.norm()) for gradient in whole(gradients).values())
