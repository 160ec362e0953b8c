"""What the scripts that write pages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, each line ended; empty cells get a dash."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(text or '-' for text in line)} |\n" for line in lines)


def tenths(share: float) -> str:
    """In percent, as the decimals have it: 0.7715 is 77.2, where its float is a little less."""
    return f"{(100 * Decimal(str(share))).quantize(Decimal('0.1'), ROUND_HALF_UP)}"
