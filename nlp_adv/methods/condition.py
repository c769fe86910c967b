"""An attack that begins when a logged number passes a threshold."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass

_SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Condition:
    """A number of the Trainer's log beside a threshold: `loss<0.4`, `eval_accuracy>0.8`."""

    metric: str
    sign: str
    threshold: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition as it is typed.

        Raises:
            ValueError: it is none.
        """
        match = re.fullmatch(r"\s*([^<>=\s]+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
        try:
            threshold = float(match[3]) if match else math.nan
        except ValueError:
            threshold = math.nan
        if match is None or not math.isfinite(threshold):
            raise ValueError(
                f"start_when (--adv_start_when) must be a metric, one of < <= > >= and a number, "
                f"such as eval_accuracy>0.8 or loss<0.4, not {text!r}."
            )
        return cls(match[1], match[2], threshold)

    def holds(self, value: float) -> bool:
        """Whether the number is on the asked side of the threshold; nan is on neither."""
        return bool(_SIGNS[self.sign](value, self.threshold))

    @property
    def wants_more(self) -> bool:
        """Whether larger numbers are nearer to it."""
        return ">" in self.sign

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.threshold}"
