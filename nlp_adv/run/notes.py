"""What the processes of a run tell the one that started them, and what that makes of it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nlp_adv.errors import UserError

VARIABLE = "NLP_ADV_RUN"
"""The environment variable by which a process knows that it belongs to a run."""


class Note(NamedTuple):
    """One event.

    Attributes:
        event: "built", "left" (another class was asked for), "began" or "failed".
        trainer: name of the Trainer's class.
        said: of a failure.
    """

    event: str
    trainer: str
    said: str = ""


class Orders(NamedTuple):
    """What every process of a run is told.

    Attributes:
        flags: fields of `RunArguments` and their values.
        folder: where notes are left, a file a process.
    """

    flags: Mapping[str, Any]
    folder: str

    def text(self) -> str:
        """As the environment variable holds it."""
        return json.dumps(self._asdict())

    @classmethod
    def of(cls, text: str) -> "Orders":
        """The reverse."""
        return cls(**json.loads(text))

    def note(self, event: str, trainer: Any, said: str = "") -> None:
        """Leave a note; a process that is killed has left what it did before."""
        note = Note(event, type(trainer).__name__, said)
        with open(Path(self.folder) / f"{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")

    def notes(self) -> list[Note]:
        """Those of all processes."""
        files = sorted(Path(self.folder).glob("*.jsonl"))
        lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
        return [Note(*json.loads(line)) for line in lines]


def check_trained(notes: list[Note], script: str, asked: str | None) -> None:
    """Refuse to call a run done in which nothing was adversarial.

    Args:
        notes: of a run that has ended well by its own exit code.
        script: its name.
        asked: the class of --adv_trainer.

    Raises:
        UserError: no Trainer was built, none trained, or one failed and the script went on.
    """
    by_event: dict[str, list[Note]] = {}
    for note in notes:
        by_event.setdefault(note.event, []).append(note)
    for note in by_event.get("failed", []):
        raise UserError(f"{script} went on after {note.trainer} had ended in: {note.said}")
    if "began" in by_event:
        return
    if "built" in by_event:
        names = ", ".join(sorted({note.trainer for note in by_event["built"]}))
        raise UserError(
            f"{script} built {names} and never trained with it, so nothing was adversarial: make "
            f"it train (such as by --do_train), or evaluate without nlp-adv run."
        )
    if "left" in by_event:
        names = ", ".join(sorted({note.trainer for note in by_event["left"]}))
        raise UserError(
            f"{script} built no {asked}, so nothing was adversarial; its Trainers: {names}."
        )
    raise UserError(
        f"{script} built no transformers.Trainer, so nothing was adversarial: a training loop of "
        f"its own needs method.step(text_objective(model, batch)) in it, and under python -I, -E "
        f"or -S no Trainer is seen."
    )
