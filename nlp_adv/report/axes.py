"""Where the values of a chart's x axis go, and which of them are named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

_ZERO_SLOT = 0.08  # of a logarithmic axis, left free for 0
_LOG_FROM = 50  # largest ÷ smallest, from which an axis is logarithmic


def axis(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    """The place of each x in [0, 1], and the ticks.

    Wide ranges are drawn logarithmically, with 0, where there is one, at the left end.
    """
    positive = [value for value in values if value > 0]
    if not positive or positive[-1] < _LOG_FROM * positive[0]:
        low, high = min(values, default=0.0), max(values, default=1.0)
        span = high - low or 1.0
        return lambda x: (x - low) / span, linear_ticks(low, high)
    start = _ZERO_SLOT if len(positive) < len(values) else 0.0
    low, high = math.log(positive[0]), math.log(positive[-1])

    def place(x: float) -> float:
        return start + (1 - start) * (math.log(x) - low) / (high - low) if x > 0 else 0.0

    return place, [*([0.0] if start else []), *log_ticks(positive[0], positive[-1])]


def linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 × a power of ten, at most seven."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(power * m for m in (1, 2, 5, 10) if (high - low) / (power * m) <= 6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 × powers of ten, or fewer of them, at most nine."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for every, digits in ((1, (1, 2, 5)), (1, (1,)), (2, (1,)), (4, (1,))):
        ticks = [float(f"{m}e{power}") for power in powers[::every] for m in digits]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= 9:
            break
    return inside
