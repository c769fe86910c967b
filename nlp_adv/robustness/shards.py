"""Several runs that share the examples of one attack."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nlp_adv.errors import UserError


@dataclass(frozen=True)
class Shard:
    """One of several runs that share the examples: those with id mod `of` = `index` − 1.

    Args:
        index: which one, from 1.
        of: how many there are.
    """

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise UserError(
                f"There is no shard {self.index}/{self.of}; shards are numbered from 1, such as "
                "2/8 for the second of eight."
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8".

        Raises:
            UserError: that is no shard.
        """
        parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if parts is None:
            raise UserError(f"{text!r} is no shard; write 2/8 for the second of eight.")
        return cls(int(parts[1]), int(parts[2]))

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.index}/{self.of}"

    def takes(self, number: int) -> bool:
        """Whether the example of that id belongs to it."""
        return number % self.of == self.index - 1
