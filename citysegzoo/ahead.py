"""Reading ahead in threads, in order and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import PIL.Image

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Read], *, ahead: int, workers: int = 2
) -> Generator[tuple[Item, Future[Read]], None, None]:
    """Read items in threads, in their order, at most some ahead; closing it ends the threads.

    A PIL image or an array is read before the next item is asked for: it may be an open file that
    its iterator moves on to the next frame, or a buffer that the next frame is written to, and two
    threads may not read one image at once.

    Args:
        items: Anything iterable, such as a reader of video frames; iterated in one thread.
        read: Called with an item, in one of several threads.
        ahead: How many items there are at most that nobody asked for yet.
        workers: Threads that read.

    Yields:
        An item and what reads it: its ``result()`` is what was read, or raises what reading did.

    Raises:
        Exception: What ``items`` raises, after the items before.
    """
    iterator = iter(items)
    source, readers = ThreadPoolExecutor(1), ThreadPoolExecutor(workers)

    def following() -> tuple[Item, Future[Read]] | None:
        for item in iterator:
            reading = readers.submit(read, item)
            if isinstance(item, PIL.Image.Image | np.ndarray):
                wait([reading])
            return item, reading
        return None

    pending: deque[Future[tuple[Item, Future[Read]] | None]] = deque()
    try:
        while True:
            while len(pending) < ahead:
                pending.append(source.submit(following))
            found = pending.popleft().result()
            if found is None:
                return
            yield found
    finally:
        source.shutdown(cancel_futures=True)
        readers.shutdown(cancel_futures=True)
