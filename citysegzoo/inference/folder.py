"""A folder of photographs into a folder of label maps and overlays."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from citysegzoo.images import find_images
from citysegzoo.inference.segmentation import Segmentation, check_outputs
from citysegzoo.inference.stream import FAILURES, Failure, warn, without_frames

if TYPE_CHECKING:
    from citysegzoo.inference.segmenter import Segmenter

_UNWRITTEN = 2  # results that wait to be written at most


def segment_folder(
    segmenter: Segmenter,
    photos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    batch_size: int,
    progress: bool,
    on_saved: Callable[[Segmentation, tuple[Path, Path]], object] | None,
    on_error: Callable[[Failure], object] | None,
) -> list[Failure]:
    """Segment photographs and write the results in a thread; see :meth:`Segmenter.folder`."""
    from tqdm import tqdm

    files, output = find_images(photos), Path(output)
    check_outputs(files, output)
    by_name = {file.stem: file for file in files}
    output.mkdir(parents=True, exist_ok=True)
    failures: list[Failure] = []
    unwritten: deque[tuple[Segmentation, Future[tuple[Path, Path]]]] = deque()

    def failed(failure: Failure) -> None:
        bar.update()
        (on_error or warn)(failure)
        failures.append(without_frames(failure))

    def failed_in_turn(failure: Failure) -> None:
        while unwritten:
            settle()
        failed(failure)

    def settle() -> None:
        result, writing = unwritten.popleft()
        try:
            paths = writing.result()
        except FAILURES as error:
            failed(Failure(str(by_name[result.name]), error))
            return
        bar.update()
        if on_saved:
            on_saved(result, paths)

    shown = progress and len(files) > 1
    with (
        tqdm(total=len(files), unit="photo", disable=None if shown else True) as bar,
        ThreadPoolExecutor(1) as writer,
        closing(segmenter.stream(files, batch_size=batch_size, on_error=failed_in_turn)) as results,
    ):
        for result in results:
            unwritten.append((result, writer.submit(_save, result, output)))
            if len(unwritten) > _UNWRITTEN:
                settle()
        while unwritten:
            settle()
    return failures


def _save(result: Segmentation, folder: Path) -> tuple[Path, Path]:
    files = result.save(folder)
    _ = result.shares  # counted here, where it does not hold up the network
    return files
