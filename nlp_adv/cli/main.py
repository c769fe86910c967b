"""`nlp-adv COMMAND …`: find the command, run it, print an error as one sentence."""

import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from nlp_adv import __version__
from nlp_adv.cli.failures import readers_are_gone, sentence
from nlp_adv.cli.stopping import Stopping
from nlp_adv.errors import meant
from nlp_adv.robustness.processes import Processes, launched
from nlp_adv.run.words import own_words

# command: (module, what it does); a module is imported only when its command is asked for. They
# stand in the order in which one needs them.
COMMANDS = {
    "train": ("nlp_adv.cli.train", "Fine-tune a model, with adversarial training if --adv asks."),
    "run": ("nlp_adv.cli.run", "Train a script of your own adversarially, the script unmodified."),
    "resources": ("nlp_adv.cli.resources", "List and fetch what attacks on words need."),
    "attack": ("nlp_adv.cli.attack", "Attack a saved model on labelled data, by attacks you name."),
    "evaluate": ("nlp_adv.cli.evaluate", "Attack words and embeddings, and run the checks."),
    "compare": ("nlp_adv.cli.compare", "Train and evaluate the methods of a recipe over seeds."),
    "report": ("nlp_adv.cli.report_command", "Put finished evaluations into one report."),
    "sweep": ("nlp_adv.cli.sweep", "Search the hyperparameters of a method and of its training."),
    "augment": (
        "nlp_adv.cli.augment_command",
        "Attack training texts and write what fools as new rows.",
    ),
}

_USAGE = """usage: nlp-adv COMMAND [flags]

Make a model robust, and measure whether it is. A model is robust at an example if no allowed change
of the example makes its answer wrong. The commands, in the order in which one needs them:

{commands}

Their words:

  site       where a change δ enters the model: word embeddings, pixels, or the output of a layer
  ball       how far δ may go: all δ with a norm of at most ε; its unit belongs to the number
  method     how a model is trained against the worst δ in the ball, such as freelb: --adv freelb
  attack     how a wrong answer is looked for: a δ in a ball, or a few changed words of a text
  protocol   what an attack on words may do, with a name and a hash; equal hashes can be compared
  record     what one attack did to one example; a run writes records.jsonl beside its report
  check      a test whether an attack failed for another reason than robustness (gradient masking)

Begin with nlp-adv train --adv freelb: without a model and data it trains a demo, in minutes.
nlp-adv COMMAND --help lists the flags of a command; nlp-adv --version prints the version; --debug
shows the traceback of an error."""

_SHARED = ("attack", "evaluate", "augment")  # by the processes of a launcher

# What --debug means to transformers, if one of these follows.
_OF_TRANSFORMERS = ("underflow_overflow", "tpu_metrics_debug")
_GOES_ON = {
    "train": "with a checkpoint, --resume_from_checkpoint last goes on from it",
    "report": "the same command begins anew",
    "run": "whether it can go on from a checkpoint is for the script to say",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 2 for what the user can mend, said in one sentence; 1 for a fault of this
        package; 130 after Ctrl-C or SIGTERM; 141 where nobody reads the output any more. `run`
        returns that of its script.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # so that a reader who has gone is noticed here
    except BrokenPipeError:
        if not readers_are_gone():
            raise
        return 141


def _run(arguments: list[str]) -> int:
    place = _script(arguments)
    arguments, script = arguments[:place], arguments[place:]
    arguments, debug = _without_debug(arguments)
    arguments += script
    if arguments and arguments[0] == "--version":
        print(f"nlp-adv {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        way_out = meant(name, COMMANDS) or "nlp-adv --help lists them."
        print(f"nlp-adv: there is no command {name!r}; {way_out}", file=sys.stderr)
        return 2
    processes = Processes()
    with Stopping() as stopping:
        try:
            processes = launched() if name in _SHARED else processes
            with processes.quiet():
                command: Callable[[list[str]], int | None] = import_module(COMMANDS[name][0]).main
                return command(rest) or 0
        except BaseException as error:
            known = isinstance(error, Exception | KeyboardInterrupt) or sentence(error) is not None
            if not known:  # the end of --help, and what means to end the process
                raise
            if not processes.fails():  # another one says why
                return 130 if stopping.asked else 2
            return _failed(name, error, debug=debug, stopped=stopping.asked)


def _failed(name: str, error: BaseException, *, debug: bool, stopped: bool) -> int:
    """Say in one sentence what happened, and return the exit code."""
    if isinstance(error, BrokenPipeError) and readers_are_gone():
        return 141
    if debug:
        traceback.print_exception(error)
    # Once it was asked to stop, whatever ends the command is a consequence.
    if stopped or isinstance(error, KeyboardInterrupt):
        goes_on = _GOES_ON.get(name, "the same command goes on where it stopped")
        print(f"nlp-adv {name}: stopped; {goes_on}.", file=sys.stderr)
        return 130
    said = sentence(error)
    if said is not None:
        print(f"nlp-adv {name}: error: {said}", file=sys.stderr)
        return 2
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    advice = "report it with the traceback above" if debug else "--debug shows the traceback"
    print(f"nlp-adv {name}: this is a bug in nlp-adv ({what}); {advice}.", file=sys.stderr)
    return 1


def _script(arguments: list[str]) -> int:
    """Where the words begin that belong to the script of `nlp-adv run`; none do elsewhere."""
    if next((word for word in arguments if word != "--debug"), None) != "run":
        return len(arguments)
    after = arguments.index("run") + 1
    return after + own_words(arguments[after:])


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The command line without --debug, and whether it was there; transformers' own one stays."""
    following = [*arguments, ""][1:]
    ours = [
        word == "--debug" and after not in _OF_TRANSFORMERS
        for word, after in zip(arguments, following, strict=True)
    ]
    return [word for word, own in zip(arguments, ours, strict=True) if not own], any(ours)


def _usage() -> str:
    lines = (f"  {name:11}{what}" for name, (_, what) in COMMANDS.items())
    return _USAGE.format(commands="\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
