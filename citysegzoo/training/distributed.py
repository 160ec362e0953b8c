"""Training with several processes: who is who, and batch norm over the whole batch."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from citysegzoo.hardware import find_device
from citysegzoo.layers import BatchNorm2d


@dataclass(frozen=True)
class Processes:
    """The processes of a run and this one's place among them.

    Attributes:
        device: Where this process computes.
        rank: Its number; 0 writes files and speaks.
        world_size: How many there are.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in every one."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value


def start_processes(device: str) -> Processes:
    """Join the processes that ``torchrun`` started, or be the only one.

    Args:
        device: ``"cuda"``, where each process takes the card of its local rank and they talk by
            NCCL; ``"cpu"``, where they talk by gloo; or ``"auto"``, a GPU if there is one.

    Raises:
        ValueError: If there is no such device, or none for every process, or networks cannot be
            trained on it.
    """
    alone, cards = "WORLD_SIZE" not in os.environ, torch.cuda.device_count()
    own = int(os.environ.get("LOCAL_RANK", 0))
    on_cards = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cards and not alone:
        if own >= cards > 0:
            raise ValueError(
                f"there are {cards} CUDA devices here and more processes; give "
                f"--nproc-per-node={cards}."
            )
        device = f"cuda:{own}"
    where = find_device(device)
    if where.type == "mps":
        raise ValueError("training needs float64, which mps has not; choose cpu or cuda.")
    if where.type == "cuda" and where.index is not None:  # without, it is the current one
        torch.cuda.set_device(where)
    if alone:
        return Processes(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    return Processes(where, dist.get_rank(), dist.get_world_size())


def stop_processes() -> None:
    """Leave the other processes, if there are any, at the end of a run: all at once."""
    if dist.is_initialized():
        # One that leaves while another still writes or talks may be aborted on its way out.
        cards = [torch.cuda.current_device()] if dist.get_backend() == "nccl" else None
        with contextlib.suppress(RuntimeError):  # of one that ended before, and said why
            dist.barrier(device_ids=cards)
        dist.destroy_process_group()


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Have every batch norm take its statistics over the images of all processes.

    On accelerators with torch's own :class:`~torch.nn.SyncBatchNorm`; that has no CPU form, so
    that there :class:`SynchronisedBatchNorm2d` does it. Names and values of the weights stay.
    """
    if device.type != "cpu":
        # timm's, which keeps the activation that some of its batch norms include.
        from timm.layers.norm_act import convert_sync_batchnorm

        return convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, SynchronisedBatchNorm2d.like(child))
        else:
            synchronise_batch_norm(child, device)
    return model


class SynchronisedBatchNorm2d(BatchNorm2d):
    """Batch norm over the images of all processes, on any device.

    Dropout and activation follow it where it stands for timm's ``BatchNormAct2d``. The mean first
    and the variance about it second, in float32: two small sums over the processes, through which
    gradients flow.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> SynchronisedBatchNorm2d:
        """One with the settings, weights and statistics of another batch norm."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        for name, child in norm.named_children():
            new.add_module(name, child)
        return new.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.BatchNorm2d calls it so
        x = self._normalised(input)
        for child in self.children():
            x = child(x)
        return x

    def _normalised(self, input: Tensor) -> Tensor:  # noqa: A002
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float()
        count = x.new_tensor(x.numel() // x.shape[1])
        dist.all_reduce(count)
        mean = _summed(x.sum((0, 2, 3))) / count
        x = x - mean[:, None, None]
        variance = _summed(x.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            part = self.momentum
            if part is None:  # the mean of all batches so far
                part = 1 / float(self.num_batches_tracked)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
                unbiased = variance * count / (count - 1).clamp(min=1)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), part)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        x = x * scale[:, None, None]
        if self.bias is not None:
            x = x + self.bias[:, None, None]
        return x.to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is that of the sum of all their losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def _summed(x: Tensor) -> Tensor:
    result: Tensor = _Sum.apply(x)
    return result
