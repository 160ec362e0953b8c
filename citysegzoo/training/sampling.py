"""Which images make which step: a pure function of seed, epoch and step, so that runs repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

Key = tuple[int, int]
"""Index of an image and the seed its augmentation starts from."""


class TrainingBatches(Sampler[list[Key]]):
    """Batches of an epoch for a ``DataLoader(Seeded(dataset), batch_sampler=...)``.

    The images of an epoch are a permutation that seed and epoch decide. Every ``batch_size`` of
    them are one step of the optimiser, whoever computes it: the processes share them out evenly,
    and each takes its share in ``accumulate`` parts. So the same seed trains on the same
    batches with one process or four, and an epoch can be taken up at any step. The images left
    over, fewer than a batch, wait for another epoch.

    Args:
        length: Number of images.
        batch_size: Images of a step, over all processes and parts.
        seed: Of the run.
        accumulate: Parts in which a process takes its share.
        rank: Of this process, from 0 on.
        world_size: Number of processes.

    Raises:
        ValueError: If the batch cannot be shared out evenly, there are fewer images than it takes
            or no process of that rank.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or accumulate < 1 or batch_size % (accumulate * world_size):
            raise ValueError(
                f"a batch of {batch_size} images cannot be shared evenly by {world_size} "
                f"process{'es' * (world_size > 1)} in {accumulate} part{'s' * (accumulate > 1)} "
                f"each; choose a multiple of {accumulate * world_size}."
            )
        if length < batch_size:
            raise ValueError(
                f"there are {length} training images, fewer than a batch of {batch_size}; "
                "choose a smaller batch size."
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is from 0 to {world_size - 1}, of {world_size}, not {rank}.")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.accumulate, self.rank, self.world_size = accumulate, rank, world_size
        self.steps = length // batch_size
        self.start(0)

    def start(self, epoch: int, step: int = 0) -> None:
        """Choose the epoch that is iterated next, and at which of its steps it begins.

        Raises:
            ValueError: If an epoch has fewer steps.
        """
        if not 0 <= step <= self.steps:
            raise ValueError(f"an epoch has {self.steps} steps, so that none begins at {step}.")
        self.epoch, self.first_step = epoch, step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng(seed_of(self.seed, self.epoch)).permutation(self.length)
        share = self.batch_size // self.world_size
        part = share // self.accumulate
        for step in range(self.first_step, self.steps):
            begin = step * self.batch_size + self.rank * share
            for first in range(begin, begin + share, part):
                yield [
                    (int(index), seed_of(self.seed, self.epoch, int(index)))
                    for index in order[first : first + part]
                ]


class Seeded(Dataset[Any]):
    """A dataset whose random changes to an image follow from the seed that comes with its index.

    Args:
        dataset: Any dataset whose transform draws from torch's generator.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key) -> Any:
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.dataset[index]


def seed_of(*numbers: int) -> int:
    """A seed that whole numbers decide, unlike that of any others.

    Not by numpy's ``SeedSequence``: to that ``(1, 2)`` and ``(1, 2, 0)`` are the same.
    """
    digest = hashlib.blake2b(repr([*map(int, numbers)]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes 63 bits
