"""The report of image attacks: one page for people, and the same numbers for machines."""

from nlp_adv.report.images.content import NORMS, ImageReport
from nlp_adv.report.images.exhibits import exhibit_ids, exhibits
from nlp_adv.report.images.writing import write_image_report

__all__ = ["NORMS", "ImageReport", "exhibit_ids", "exhibits", "write_image_report"]
