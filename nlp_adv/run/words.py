"""The command line of `nlp-adv run`: where its own words end, and what is started.

Imports nothing but the standard library: `main` asks before it knows what is to be done.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nlp_adv.errors import UserError

_CONFIGURATION = (".json", ".yaml", ".yml")  # files of flags, as all commands take


def own_words(words: Sequence[str]) -> int:
    """How many words from the first are flags of nlp_adv.

    The rest begins with `--`, with `-m`, with a word that ends in .py, or with a file that is there
    and is neither the value of a flag nor a file of flags.
    """
    before = ""
    for place, word in enumerate(words):
        is_value = before.startswith("--") and "=" not in before
        is_file = Path(word).is_file() and not word.endswith(_CONFIGURATION)
        if word in ("--", "-m") or word.endswith(".py") or (is_file and not is_value):
            return place
        before = word
    return len(words)


def command(words: Sequence[str]) -> list[str]:
    """What to start: a script or module by this Python, anything else as it is.

    Args:
        words: a script, `-m` and a module, or a command such as torchrun, after `--` or without it;
            and the arguments.

    Raises:
        UserError: there is no such script or command.
    """
    words = list(words[1:] if words[:1] == ["--"] else words)
    if not words or words == ["-m"]:
        raise UserError(
            "Which script? Flags of nlp_adv come first, then the script and its own flags: "
            "nlp-adv run --adv freelb train.py …, or -m MODULE …, or -- torchrun … train.py …."
        )
    first = words[0]
    if first == "-m":
        return [sys.executable, *words]
    if first.endswith(".py") or (Path(first).is_file() and not os.access(first, os.X_OK)):
        if not Path(first).is_file():
            raise UserError(f"There is no script {first}.")
        return [sys.executable, *words]
    if shutil.which(first) is None:
        raise UserError(f"There is no script or command {first}.")
    return words


def name_of(words: Sequence[str]) -> str:
    """What a sentence calls it: the script's name, or the command's first word."""
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None and "-m" in words[:-1]:
        script = words[list(words).index("-m") + 1]
    return Path(script or words[0]).name
