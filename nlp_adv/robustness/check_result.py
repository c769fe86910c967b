"""What one check of a robustness number found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A test that a number must pass before it may be called robustness.

    Args:
        name: of the check.
        passed: True, False, or None where it could not be decided.
        finding: what was measured, with its numbers.
        meaning: what it says of the model if the check fails.
    """

    name: str
    passed: bool | None
    finding: str
    meaning: str
