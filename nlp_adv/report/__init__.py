"""The report of an evaluation: one page for people, and the same numbers for machines.

Pictures of single attacks are here as well: `picture_grid`, `history_curves`, `sweep_curves`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlp_adv.report.content import ModelResult, PublishedValue, Report
    from nlp_adv.report.pictures import history_curves, picture_grid, sweep_curves
    from nlp_adv.report.writing import write_report
    from nlp_adv.robustness.check_result import Check
    from nlp_adv.robustness.curve import Curve

__all__ = [
    "Check",
    "Curve",
    "ModelResult",
    "PublishedValue",
    "Report",
    "history_curves",
    "picture_grid",
    "sweep_curves",
    "write_report",
]

_HOMES = {
    "Check": "nlp_adv.robustness.check_result",
    "Curve": "nlp_adv.robustness.curve",
    "ModelResult": "nlp_adv.report.content",
    "PublishedValue": "nlp_adv.report.content",
    "Report": "nlp_adv.report.content",
    "history_curves": "nlp_adv.report.pictures",
    "picture_grid": "nlp_adv.report.pictures",
    "sweep_curves": "nlp_adv.report.pictures",
    "write_report": "nlp_adv.report.writing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
