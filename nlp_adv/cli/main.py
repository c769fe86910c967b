"""`nlp-adv COMMAND …`: find the command, run it, print an error as one sentence."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from nlp_adv import __version__
from nlp_adv.errors import UserError

# command: (module, what it does); a module is imported only when its command is asked for
COMMANDS = {
    "train": ("nlp_adv.cli.train", "fine-tune a classifier, with adversarial training if asked"),
    "attack": (
        "nlp_adv.cli.attack",
        "attack the words and characters of labelled texts, or images",
    ),
    "evaluate": ("nlp_adv.cli.evaluate", "attack words and embeddings, and check for masking"),
    "compare": ("nlp_adv.cli.compare", "train and evaluate the methods of a recipe"),
    "report": ("nlp_adv.cli.evaluations", "make one report of finished evaluations"),
    "sweep": ("nlp_adv.cli.sweep", "search adversarial and training hyperparameters together"),
}

_USAGE = """usage: nlp-adv COMMAND [flags]

{commands}

nlp-adv COMMAND --help lists the flags of a command; nlp-adv --version prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 2 for what the user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] == "--version":
        print(f"nlp-adv {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"nlp-adv: there is no command {name!r}.\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        command: Callable[[list[str]], None] = import_module(COMMANDS[name][0]).main
        command(rest)
    except UserError as error:
        print(f"nlp-adv {name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _usage() -> str:
    lines = (f"  {name:10}{what}" for name, (_, what) in COMMANDS.items())
    return _USAGE.format(commands="\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
