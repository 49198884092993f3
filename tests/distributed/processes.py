"""Functions run in several processes that form a gloo group, forked from one that has imported torch."""

import multiprocessing
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

LONGEST = 100  # seconds until a process that waits for another is given up
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "smart_train"])


def run(folder: Path, count: int, function, *args):
    """Return ``function(*args)`` of each of ``count`` processes; raise AssertionError with the first traceback."""
    workers = [FORKS.Process(target=_work, args=(folder, rank, count, function, args)) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONGEST)
        if worker.is_alive():
            worker.kill()
    found = [torch.load(_answer(folder, rank), weights_only=False) for rank in range(count)]
    failed = [text for text in found if isinstance(text, str)]
    assert not failed, failed[0]
    return found


def _work(folder: Path, rank: int, count: int, function, args) -> None:
    torch.save("no answer: killed, or waiting for another process", _answer(folder, rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        answer = function(*args)
    except BaseException:
        answer = traceback.format_exc()
    torch.save(answer, _answer(folder, rank))
    dist.destroy_process_group()


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"answer{rank}.pt"
