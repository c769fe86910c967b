"""`nlp-adv run`: adversarial training of a script as it is."""

import os
import shlex
from dataclasses import asdict

from nlp_adv.cli.flags import flag_names
from nlp_adv.cli.parser import FlagParser
from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError
from nlp_adv.run.arguments import RunArguments
from nlp_adv.run.process import run
from nlp_adv.run.words import command, own_words

_VARIABLE = "NLP_ADV_FLAGS"
_USAGE = "nlp-adv run --adv NAME [flags] [--] SCRIPT.py | -m MODULE | COMMAND  [its own arguments]"
_EPILOG = (
    f"Flags of nlp_adv stand before the script, or in the environment variable {_VARIABLE}; "
    "everything after it is the script's. Under a launcher: torchrun … -m nlp_adv.run --adv freelb "
    "train.py …, or nlp-adv run --adv freelb -- torchrun … train.py …."
)


def main(argv: list[str]) -> int:
    """Run the command.

    Returns:
        The script's exit code.

    Raises:
        UserError: anything that the user can mend, before the script begins; or nothing that it did
            was adversarial.
    """
    place = own_words(argv)
    words = [*shlex.split(os.environ.get(_VARIABLE, "")), *argv[:place]]
    if not {"-h", "--help"} & set(words):
        started = command(argv[place:])
        if "adv" not in flag_names(flags_of(words)):
            raise UserError(
                "Which method? --adv stands before the script, as what comes after it is the "
                "script's: nlp-adv run --adv freelb train.py …."
            )
    parser = FlagParser(
        (RunArguments,), presets="text", prog="nlp-adv run", usage=_USAGE, epilog=_EPILOG
    )
    (flags,), unknown = parser.read(flags_of(words))
    if unknown and not unknown[0].startswith("-"):
        raise UserError(
            f"There is no file {unknown[0]}; a command stands after --: "
            f"nlp-adv run --adv freelb -- {unknown[0]} …."
        )
    if unknown:
        raise parser.unknown(unknown[0])
    return run(started, asdict(flags))
