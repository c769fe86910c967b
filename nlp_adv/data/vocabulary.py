"""Whether a tokenizer knows the words that it is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = 1000  # are looked at
TOO_MANY = 0.9  # of the different words under one number


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], name: str) -> None:
    """Refuse a tokenizer that gives (almost) all words the same number.

    A model folder without its tokenizer gets a tokenizer of five special tokens from transformers,
    which makes [UNK] of every word; a model trained on that has learnt the texts' lengths.

    Args:
        tokenizer: of the model.
        texts: what it is to be given.
        name: of the tokenizer, for the message.

    Raises:
        UserError: more than nine in ten different words have one and the same number, or none.
    """
    words = sorted({word for text in islice(texts, TEXTS) for word in text.split()})
    if len(words) < 2:
        return
    found = tokenizer(words, add_special_tokens=False)["input_ids"]
    # A word of several tokens has one number where all of them are the same.
    numbers = Counter(ids[0] if ids else None for ids in found if len(set(ids)) <= 1)
    number, count = (numbers.most_common(1) or [(None, 0)])[0]
    if count <= TOO_MANY * len(words):
        return
    what = "no token" if number is None else repr(tokenizer.convert_ids_to_tokens(number))
    raise UserError(
        f"The tokenizer of {name} makes {what} of {count} of {len(words)} different words: save "
        f"the model's own tokenizer in its folder, or name one with --tokenizer_name."
    )
