"""`nlp-adv attack`: attacks on labelled texts, images or prompts, records as it goes, a report."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

from nlp_adv.cli.attack_arguments import AttackArguments, AttackFlags, VictimArguments
from nlp_adv.cli.flags import command_line, flag_names
from nlp_adv.cli.modality import About, modality
from nlp_adv.cli.parser import FlagParser
from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.processes import ALONE, Processes, launched

# kind of data: its flags, and what runs with them, which takes seconds longer to import
_TASKS = {
    "text": ("text_attack_arguments:TextFlags", "text_attack:TextAttack"),
    "image": ("image_attack_arguments:ImageFlags", "image_attack:ImageAttack"),
    "chat": ("chat_attack:ChatAttack", "chat_attack:ChatAttack"),
}
_AUGMENTATION = ("augment_command:AugmentFlags", "augment:Augmentation")
_WANTED = {
    "model_name_or_path": "Name the attacked model: --model_name_or_path FOLDER_OR_NAME",
    "output_dir": "Name a folder for the results: --output_dir FOLDER",
}


_SEVERAL = (
    "Started by accelerate launch or torchrun (torchrun --nproc_per_node 2 -m nlp_adv.cli.main "
    "attack …), the processes share the examples and leave what one would."
)


class Attacked(NamedTuple):
    """What a run of attacks left.

    Attributes:
        found: the evaluation.
        summary: a table for the terminal.
        checks: of the evaluation.
        notes: what whoever reads the numbers should know.
        report: the page.
    """

    found: Any
    summary: str
    checks: Sequence[Check]
    notes: Sequence[str]
    report: Path


class AttackTask(AttackFlags):
    """All that differs between attacks on texts, on images and on prompts.

    Args:
        command: attack or evaluate.
        parsed: the flags, in the classes of `kinds`; the first two are victim and attack.
    """

    def __init__(self, command: str, parsed: Sequence[Any]) -> None:
        self.victim: VictimArguments = parsed[0]
        self.attack: AttackArguments = parsed[1]

    @abstractmethod
    def check(self) -> None:
        """Load what can be loaded before there is a model.

        Raises:
            UserError: something cannot be had.
        """

    @abstractmethod
    def run(self, processes: Processes, **more: Any) -> Any:
        """Load everything and attack.

        Args:
            processes: that share the examples.
            **more: what only a comparison of several models has.

        Returns:
            What `report` takes.

        Raises:
            UserError: something cannot be had or does not fit; what is finished is kept.
        """

    @abstractmethod
    def report(self, command: str, done: Any) -> Attacked:
        """Write the report, in the main process.

        Args:
            command: as it was typed.
            done: what `run` returned.
        """


def main(argv: list[str]) -> None:
    """Attack a saved classifier."""
    run("attack", argv, launched())


def run(command: str, argv: list[str], processes: Processes = ALONE, **more: Any) -> Any:
    """Run attack or evaluate.

    Args:
        command: which one.
        argv: the command line after it.
        processes: that share the examples; the main one alone prints and writes reports.
        **more: as `AttackTask.run` takes it.

    Returns:
        The evaluation.

    Raises:
        UserError: anything that the user can mend.
    """
    # Attacks tokenize a few words at a time, for which waking its threads takes ten times as long.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    task = read(command, argv)
    folder = alone_in(task.attack.output_dir) if processes.main else nullcontext()
    with folder:
        found = task.run(processes, **more)
        if not processes.main:
            return None
        done = task.report(command_line(command, argv), found)
        print(done.summary)
        for check in done.checks:
            if check.passed is False:
                print(f"Check failed: {check.name}: {check.finding} {check.meaning}")
        for note in done.notes:
            print(f"Note: {note}")
        print(f"The report is {done.report}.")
    return done.found


def read(command: str, argv: list[str]) -> AttackTask:
    """What a command line asks for.

    Raises:
        UserError: an unknown flag, one of the other kind of data, a value that is refused, or a
            required flag that is missing.
    """
    about = modality(argv)
    kind: type[AttackFlags] = _found(about, command, 0)
    parser = FlagParser(
        kind.kinds(command),
        prog=f"nlp-adv {command}",
        usage=f"nlp-adv {command} --model_name_or_path DIR {kind.data_usage} [flags]",
        epilog=f"{kind.elsewhere()} {_SEVERAL}".strip(),
    )
    parsed, unknown = parser.read(flags_of(argv))
    if unknown:
        other: type[AttackFlags] = _found(kind.other, command, 0) if kind.elsewhere() else kind
        others = {one.name for part in other.kinds(command) for one in fields(part)}
        if flag_names(unknown[:1]) & others:
            raise UserError(
                f"{unknown[0].split('=')[0]} belongs to attacks on {kind.other}s: leave it out, or "
                f"add --modality {kind.other}."
            )
        raise parser.unknown(unknown[0])
    task = cast(AttackTask, _found(about, command, 1)(command, parsed))
    given = vars(task.victim) | vars(task.attack)
    for name, sentence in _WANTED.items():
        if not given[name]:
            raise UserError(f"{sentence}.")
    return task


def _found(kind: About, command: str, which: int) -> Any:
    """The class of the flags (0), or of the task (1)."""
    if command == "augment" and kind != "text":
        raise UserError("augment writes texts; images are augmented while they are trained on.")
    module, _, name = (_AUGMENTATION if command == "augment" else _TASKS[kind])[which].partition(
        ":"
    )
    return getattr(import_module(f"nlp_adv.cli.{module}"), name)
