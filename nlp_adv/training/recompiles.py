"""Says so when torch.compile gives up, which it does without stopping the run."""

import logging
import sys
from typing import Any

logger = logging.getLogger("nlp_adv.training")


class RecompileAlarm:
    """Warns once, when Dynamo has reached its limit of graphs since this was made."""

    def __init__(self) -> None:
        self._before = _given_up()
        self._said = False

    def check(self) -> None:
        """Where a compiled model is trained; elsewhere there is nothing to see."""
        if self._said or _given_up() <= self._before:
            return
        self._said = True
        logger.warning(
            "torch.compile has reached its limit of graphs (torch._dynamo.config.recompile_limit) "
            "and runs what fits none of them uncompiled from now on, slower and, with inductor, "
            "with other dropout masks in passes of one step: pad the batches to fewer lengths "
            "(pad_to_multiple_of) or raise the limit."
        )


def _given_up() -> int:
    """How many frames Dynamo has left uncompiled in this process for the number of their graphs."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")  # who compiles has imported it
    counted = {} if dynamo is None else dynamo.counters.get("unimplemented", {})
    return sum(count for said, count in counted.items() if "recompile limit exceeded" in said)
