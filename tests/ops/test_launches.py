"""Every op hands the driver what ``kernel[grid]`` hands it, whatever its inputs look like in memory.

On a GPU that is only claimed. A call with kept plans and launches is compared with the same call where all is decided
anew, so that Triton launches: grids, constants, numbers, and which tensor goes where.
"""

import contextlib
import gc
import random
from dataclasses import is_dataclass
from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from bench import host
from bench.claimed import claimed
from bench.host_cases import cases
from smart_kernels.ops.common import forget, launch
from tests.conftest import INTERPRETED

from .common.test_launch import flat, told

if INTERPRETED:
    pytest.skip("the interpreter has no driver", allow_module_level=True)

LAYOUTS = 3  # of the inputs of each call
CALLS = [(case, pass_) for case in cases() if case.layers == 1 and case.name != "F.linear" for pass_ in case.passes]
NAMES = [f"{case.name} {pass_}" for case, pass_ in CALLS]


def relaid(tensor: torch.Tensor, dice: random.Random) -> torch.Tensor:
    """The same numbers elsewhere: after some others, in longer rows, or with the last two axes swapped in memory."""
    if tensor.dtype == torch.int32 or tensor.dim() == 0:  # lists are handed over as they are kept
        return tensor
    shape = list(tensor.shape)
    swapped = tensor.dim() == 2 and dice.random() < 0.3
    if swapped:
        shape.reverse()
    longer, before = dice.choice([0, 0, 8, 3]), dice.choice([0, 0, 16, 1])
    length = shape[-1] + longer
    memory = torch.zeros(before + length * torch.Size(shape[:-1]).numel(), dtype=tensor.dtype)
    new = memory[before:].view(*shape[:-1], length)[..., : shape[-1]]
    new = new.T if swapped else new
    with torch.no_grad():
        new.copy_(tensor)
    return new.requires_grad_(tensor.requires_grad)


def moved(call: partial, wanted: list, dice: random.Random) -> tuple:
    """The call with its tensors relaid; what belongs to a layer stays."""
    new = {id(t): relaid(t, dice) for t in (*call.args, *call.keywords.values()) if torch.is_tensor(t)}
    args = [new.get(id(arg), arg) for arg in call.args]
    keywords = {name: new.get(id(arg), arg) for name, arg in call.keywords.items()}
    return partial(call.func, *args, **keywords), [new.get(id(t), t) for t in wanted]


def ready(case, pass_, dice):
    """Return what runs the pass of a case, its inputs relaid."""
    call, wanted = case.make()
    if isinstance(call, partial):
        call, wanted = moved(call, wanted, dice)
    return (host.step(call, wanted) if pass_ == "fwd+bwd" else torch.no_grad()(call)), call


def launches(driver, run) -> list:
    driver.launches.clear()
    run()
    return [*driver.launches]


def storages(call) -> dict[int, int]:
    """From where the memory of a call's tensors begins to where it ends."""
    held = [*call.args, *call.keywords.values()] if isinstance(call, partial) else []
    held += [value for each in held if is_dataclass(each) for value in vars(each).values()]
    held += [
        t for each in (*held, getattr(call, "func", None)) if isinstance(each, nn.Module) for t in tensors_of(each)
    ]
    found = [t.untyped_storage() for t in held if torch.is_tensor(t)]
    return {storage.data_ptr(): storage.data_ptr() + storage.nbytes() for storage in found}


def tensors_of(module: nn.Module) -> list:
    return [*module.parameters(), *module.buffers()]


def compare(ours: list, triton: list, call) -> None:
    """Assert that launches agree; what a call has made itself lies elsewhere each time, but at equal places."""
    given, elsewhere = storages(call), {}  # address by Triton -> ours
    assert len(ours) == len(triton)
    for one, other in zip(ours, triton, strict=True):
        tensors = [torch.is_tensor(value) for value in flat(other)]
        for mine, theirs, is_tensor in zip(told(one), told(other), tensors, strict=True):
            if isinstance(theirs, tuple) and theirs[:1] == ("tensor map",):
                assert mine[:1] + mine[2:] == theirs[:1] + theirs[2:]
                mine, theirs, is_tensor = mine[1], theirs[1], True
            if is_tensor and not any(begin <= theirs < end for begin, end in given.items()):
                assert elsewhere.setdefault(theirs, mine) == mine and (mine - theirs) % 16 == 0
            else:
                assert mine == theirs and type(mine) is type(theirs)


@pytest.mark.parametrize(("case", "pass_"), CALLS, ids=NAMES)
def test_arguments_are_those_of_triton_and_no_tensor_is_kept(case, pass_):
    dice, memory = random.Random(case.name), []
    with claimed("sm_90") as driver:
        for _ in range(LAYOUTS):
            run, call = ready(case, pass_, dice)
            run()
            ours = launches(driver, run)
            assert not any(torch.is_tensor(value) for launch in ours for value in flat(launch)), "kept"
            with by_triton():
                compare(ours, launches(driver, run), call)
            driver.launches.clear()
            run()  # with plans again
            memory += [StorageWeakRef(t.untyped_storage()) for t in tree_leaves(vars_of(call)) if torch.is_tensor(t)]
        del run, call, ours
        driver.launches.clear()
        gc.collect()
        assert all(each.expired() for each in memory), "a plan may outlive model and batch"


@contextlib.contextmanager
def by_triton():
    """All is decided anew, and Triton launches."""
    forget()
    with mock.patch.object(launch, "understood", lambda *args: None):
        yield
    forget()


def vars_of(call) -> list:
    """List what a call was made of."""
    return [call.args, call.keywords] if isinstance(call, partial) else []
