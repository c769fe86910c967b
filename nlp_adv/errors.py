"""The one exception that means: the user can mend this."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something in the request is wrong; the message is one sentence: the cause and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


def foreign_code(what: str, name: str | None) -> str:
    """What to say of a model, tokenizer or configuration that comes with Python code of its own."""
    return (
        f"The {what} {name!r} comes with code of its own (auto_map), which nlp_adv does not run "
        f"unasked: give a model whose classes are transformers' own, or read that code and pass "
        f"--trust_remote_code true."
    )


def meant(word: str, known: Iterable[str]) -> str:
    """ "did you mean X?" of the name that is most like a word; "" where none is like it."""
    there = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), there, n=1)
    return f"did you mean {there[close[0]]}?" if close else ""


def no_such(what: str, name: str, known: Iterable[str]) -> UserError:
    """What to say of a name that is none.

    Args:
        what: it should be one of: "attack", "protocol".
        name: as it was given.
        known: those that there are, in the order in which they are shown.
    """
    names = list(known)
    near = meant(name, names)
    shown = ", ".join(names)
    if near:
        return UserError(f"There is no {what} {name!r}; {near} Choose from {shown}.")
    return UserError(f"There is no {what} {name!r}; choose from {shown}.")
