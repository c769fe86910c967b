"""The report of an evaluation: one page for people, and the same numbers for machines."""

from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.report.content import Curve, ModelResult, PublishedValue, Report
from nlp_adv.robustness.report.writing import write_report

__all__ = ["Check", "Curve", "ModelResult", "PublishedValue", "Report", "write_report"]
