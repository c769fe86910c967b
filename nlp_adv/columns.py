"""Columns of a batch that say what of it is attacked, and which no model ever sees."""

ADV_MASK = "adv_mask"
"""(B, T): the user's own token mask, 1 where δ may move."""

ADV_ROWS = "adv_rows"
"""(B,): which group a row of a paired batch belongs to, one of the numbers below."""

REJECTED, CHOSEN, UTILITY = 0, 1, 2

COMPLETION_MASK = "completion_mask"
"""(B, T): 1 on the tokens of a completion, as trl's collators have it."""
