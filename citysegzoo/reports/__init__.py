"""The project reports that the zoo's models come from, as data: models, recipes, figures.

>>> from citysegzoo.reports import get_report
>>> print(get_report("mei2019"))
"""

from __future__ import annotations

from citysegzoo.registry import check_name, suggestion
from citysegzoo.reports import chen2020, fixman2024, mei2019, stevens2020, xiang2020
from citysegzoo.reports._report import Report, figure_text, overall_iou

REPORTS: dict[str, Report] = {
    module.REPORT.key: module.REPORT
    for module in (stevens2020, chen2020, fixman2024, mei2019, xiang2020)
}
"""All reports by key."""


def list_reports() -> list[str]:
    """The keys of all reports."""
    return list(REPORTS)


def get_report(key: str) -> Report:
    """The report of that key.

    Raises:
        ValueError: If there is none, with the nearest keys.
        TypeError: If the key is no text.
    """
    check_name("report", key)
    if key not in REPORTS:
        raise ValueError(f"there is no report {key!r}{suggestion(key, REPORTS)}.")
    return REPORTS[key]


__all__ = ["REPORTS", "Report", "figure_text", "get_report", "list_reports", "overall_iou"]
