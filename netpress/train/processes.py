"""One training in several processes: who am I, say something to all, add something up over all.

`torchrun` (or `--nproc`) starts the processes and tells each its rank; without it there is one, and all of this is
free. Nothing is ever sent as a pickle: bytes and numbers only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.errors import ModelError, NetpressError

WAIT = timedelta(hours=12)
"""How long one process waits for another: rank 0 may measure for hours; a dead one is noticed by its closed socket."""


class ProcessLostError(NetpressError):
    """Another process of the run ended; what was reached is kept."""

    exit_code = 75  # "try again later", for whoever starts runs by script
    said_by_launcher = True


def announced() -> int:
    """Processes that the launcher started, from the environment that `torchrun` sets; 1 without a launcher.

    >>> announced()
    1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def place() -> tuple[int, int]:
    """Rank of this process, and how many there are.

    >>> place()
    (0, 1)
    """
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return place()[0] == 0


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the announced processes for a while: gloo on the CPU, nccl beside it on CUDA.

    Raises:
        ProcessLostError: the others cannot be reached, or end first.
    """
    if announced() == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with _noticed():
        dist.init_process_group(backend, timeout=WAIT)
    try:
        with _noticed():
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _noticed() -> Iterator[None]:
    """Say in one line that another process is gone, whatever the library calls it."""
    try:
        yield
    except (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError) as error:
        raise _lost(error) from error
    except RuntimeError as error:
        if "gloo" not in str(error).lower() and "Connection" not in str(error):
            raise
        raise _lost(error) from error


def _lost(error: BaseException) -> ProcessLostError:
    reason = str(error).strip().splitlines()[0].rpartition("] ")[2].rstrip(". ")[:80]  # behind the library's own file
    return ProcessLostError(
        f"another process of this run ended ({reason}); what was reached is kept: run the same command again"
    )


def send(payload: bytes | None) -> bytes:
    """What rank 0 says, in every process.

    Args:
        payload: rank 0's bytes; the others give None.

    >>> send(b"as it is where there is one process")[:5]
    b'as it'
    """
    rank, world = place()
    if world == 1:
        assert payload is not None
        return payload
    size = torch.tensor([len(payload) if payload is not None else 0])
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8)
    if payload is not None and rank == 0:
        data = torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else data
    if int(size):
        dist.broadcast(data, 0)
    return data.numpy().tobytes()


def total(numbers: Tensor) -> Tensor:
    """Sum over all processes; the argument is left as it is.

    >>> total(torch.tensor([2.0]))
    tensor([2.])
    """
    if place()[1] == 1:
        return numbers
    summed = numbers.clone()
    dist.all_reduce(summed)
    return summed


# --- batch norm over all processes ---


def reduce_norms(net: nn.Module) -> list[_BatchNorm]:
    """Make batch norms in training take their statistics over the batches of all processes; returns them.

        m = sum_r n_r m_r / n        v = sum_r n_r (v_r + (m_r - m)^2) / n

    `torch.nn.SyncBatchNorm` does the same on CUDA only. Gradients pass through the sums, so that several processes
    compute what one does with the whole batch. `release_norms` undoes it.

    Raises:
        ModelError: a batch norm without batch axis statistics of its own, such as an instance norm's parent.
    """
    found = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if place()[1] > 1:
        for module in found:
            if "forward" in vars(module):
                raise ModelError("a batch norm has a forward of its own: several processes cannot share its statistics")
            vars(module)["forward"] = partial(_reduced, module)
    return found


def release_norms(norms: list[_BatchNorm]) -> None:
    """Give batch norms their own forward back."""
    for module in norms:
        vars(module).pop("forward", None)


def _reduced(module: Any, x: Tensor) -> Tensor:
    if not module.training:
        own: Tensor = type(module).forward(module, x)
        return own
    wide = x.float()
    axes = [0, *range(2, x.ndim)]
    count = torch.tensor(float(x.numel() // x.shape[1]), device=x.device)
    mean = wide.mean(axes)
    # about a centre that all share: sums of squares about 0 lose the variance of a far mean
    centre = total(mean.detach()) / place()[1]
    about = (wide - centre.view(_aside(x))).square().mean(axes)
    sums: Tensor = all_reduce(torch.cat([count * (mean - centre), count * about, count.view(1)]))  # type: ignore[no-untyped-call]
    channels, n = x.shape[1], sums[-1].detach()
    offset = sums[:channels] / n
    variance = sums[channels : 2 * channels] / n - offset.square()
    found = centre + offset
    _note(module, found.detach(), variance.detach(), n)
    scaled: Tensor = (wide - found.view(_aside(x))) * torch.rsqrt(variance + module.eps).view(_aside(x))
    if module.affine:
        scaled = scaled * module.weight.view(_aside(x)) + module.bias.view(_aside(x))
    return scaled.to(x.dtype)


def _aside(x: Tensor) -> tuple[int, ...]:
    return (1, -1, *(1,) * (x.ndim - 2))


def _note(module: Any, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Running statistics, as PyTorch keeps them: the unbiased variance."""
    if not module.track_running_stats:
        return
    with torch.no_grad():
        module.num_batches_tracked += 1
        share = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
        module.running_mean.lerp_(mean.to(module.running_mean.dtype), share)
        module.running_var.lerp_((variance * count / (count - 1)).to(module.running_var.dtype), share)


def facts() -> Mapping[str, int]:
    """What a log says of the processes.

    >>> facts()
    {'rank': 0, 'processes': 1}
    """
    rank, world = place()
    return {"rank": rank, "processes": world}
