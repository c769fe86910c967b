"""`nlp-adv augment`: attack labelled texts and write what was found as a training file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_adv.cli.attack import Attacked
from nlp_adv.cli.augment_command import AugmentFlags
from nlp_adv.cli.text_attack import TextAttack
from nlp_adv.cli.victim import load_texts
from nlp_adv.cli.word_arguments import chosen_protocol
from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.robustness.augmentation import augmented_rows
from nlp_adv.robustness.evaluated import Evaluation

FILE = "augmented.jsonl"


class Augmentation(AugmentFlags, TextAttack):
    """An attack on the texts of --train_file, or of the training split."""

    def __init__(self, command: str, parsed: Sequence[Any]) -> None:
        victim, given, self._wanted = parsed
        if victim.test_file:
            raise UserError("What is trained on is attacked: name it as --train_file.")
        if given.shard:
            raise UserError("--shard would write a part of the rows; run augment without it.")
        if given.target:
            raise UserError("--target leads texts to one class; leave it out to train on all.")
        if victim.hub_dataset_id:
            raise UserError("--hub_dataset_id is for attack and evaluate, which measure something.")
        victim.test_file, victim.train_file = victim.train_file, None
        victim.split = victim.split or "train"
        if not (victim.test_file or victim.dataset_name or victim.task_name):
            raise UserError("Name the texts: one of --train_file, --dataset_name and --task_name.")
        super().__init__(command, (victim, given))

    def report(self, command: str, done: Evaluation) -> Attacked:
        """Write the rows beside the records."""
        reported = super().report(command, done)
        rows = augmented_rows(
            load_texts(self.victim)[0],
            done.records,
            keep=self._wanted.keep,
            originals=self._wanted.originals,
            text_columns=tuple(self.victim.text_columns),
            label_column=self.victim.label_column,
            part=chosen_protocol(self.attack).part,
        )
        path = Path(self.attack.output_dir) / FILE
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        added = sum(bool(row["added_by"]) for row in rows)
        said = (
            f"{path} has {len(rows)} rows, {added} of them adversarial: train on it with "
            f"--train_file. An edit can change what a text means, and its label stays; read some."
        )
        return reported._replace(notes=[*reported.notes, said])
