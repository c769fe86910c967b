"""Attacks on words while a model is trained: adversarial texts of the model as it is by then.

Yoo and Qi, "Towards Improving Adversarial Training of NLP Models", Findings of EMNLP 2021,
https://arxiv.org/abs/2109.00544, Algorithm 1: as an epoch begins, training texts are attacked, and
what is found joins the training set.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adv.attacks.words.attacks.build import (
    Resources,
    attack_hash,
    build_attack,
    build_engine,
    check_attacks,
)
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Text
from nlp_adv.attacks.words.protocols import Protocol, protocol_named
from nlp_adv.attacks.words.result import WordResult
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.data.text import DataSource, TextData, find_columns, tokenized
from nlp_adv.errors import UserError
from nlp_adv.training.exchange import sharding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

logger = logging.getLogger(__name__)

_KEY = "adversarial_texts"  # of what a checkpoint's trainer_state.json keeps
_NO_TEXTS = ("static", "input-reduction")  # attacks that end with no text to train on


class AttackedTexts(torch.utils.data.Dataset[dict[str, Any]]):
    """A training set with room for adversarial texts, found anew as epochs begin.

        texts = AttackedTexts(rows, tokenizer, "a2t", resources=Resources(neighbours=table))
        trainer = AdversarialTrainer(model=model, args=args, train_dataset=texts, …)
        texts.attack_with(trainer)

    It holds the N rows and places for share·N more. As an epoch of an attack begins, as many rows
    are drawn and attacked, the model as it is by then, in eval mode; a place takes the text that
    fooled the model, with the label as it was, or the text itself where none did. So all epochs
    have the same length, which a Trainer fixes before the first, and the places are what an attack
    makes of a sample of the data. Any Trainer will do, and any method (`--adv`) acts on these texts
    as on all.

    Args:
        rows: with one or two text columns and class numbers for labels.
        tokenizer: of the model.
        attack: the name of an attack on words.
        protocol: what it may do.
        resources: what it needs.
        share: of the rows that are attacked, in (0, 1].
        every: epochs from one attack to the next; the texts stay in between.
        start_epoch: so many epochs come before the first attack; drawn texts come as they are then.
        max_length: tokens after which texts are cut.
        text_columns, label_column: found by their usual names where not given.
        seed: of the draws and the attack.

    Attributes:
        warnings: what whoever reads the numbers of the run should know, once it is over.

    Raises:
        UserError: no such attack, something that it needs is missing, a number out of range; when
            training begins, a set-up in which the texts would not reach the model.

    Deviations: the paper attacks until it has found share·N texts, where here so many are attacked;
    its loss weights adversarial texts by α, which is 1 here. One clean epoch comes first, and the
    share is 0.2, as there.

    Cost: the attack's, at the beginning of each such epoch; an epoch is longer by `share`.
    """

    def __init__(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        attack: str = "a2t",
        *,
        protocol: str | Protocol = "default",
        resources: Resources | None = None,
        share: float = 0.2,
        every: int = 1,
        start_epoch: int = 1,
        max_length: int = 128,
        text_columns: Sequence[str] = (),
        label_column: str | None = None,
        seed: int = 0,
    ) -> None:
        self.protocol = protocol_named(protocol) if isinstance(protocol, str) else protocol
        self.resources = resources or Resources()
        if attack in _NO_TEXTS:
            raise UserError(f"{attack} finds no texts to train on; name another attack.")
        check_attacks([attack], self.protocol, self.resources)
        if not 0 < share <= 1:
            raise UserError(
                f"The share of texts that are attacked is {share:g}; give one in (0, 1]."
            )
        if every < 1 or start_epoch < 0:
            raise UserError(
                f"Texts are attacked every {every} epochs after {start_epoch}; give at least 1 "
                f"and at least 0."
            )
        source = DataSource(text_columns=tuple(text_columns), label_column=label_column)
        columns, label = find_columns(rows.column_names, source)
        if not str(getattr(rows.features[label], "dtype", "")).startswith("int"):
            raise UserError(f"Attacks need class numbers in the column {label!r}.")
        self.texts = Text.of_rows(rows, columns, rows[label][:], self.protocol.part)
        kept = rows.select_columns([*columns, label])
        kept = kept if label == "label" else kept.rename_column(label, "label")
        self._rows = TextData({"train": kept}, columns, None)
        self.tokenizer, self.max_length = tokenizer, min(max_length, tokenizer.model_max_length)
        self.attack, self.share, self.every, self.start = attack, share, every, start_epoch
        self.seed = seed
        self.places = max(1, round(share * len(rows)))
        self.warnings: list[str] = []
        self._found: list[tuple[int, str | None]] = []
        self.draw(0)

    @cached_property
    def encoded(self) -> Dataset:
        """The rows as they are, tokenized."""
        return tokenized(self._rows, self.tokenizer, self.max_length)["train"]

    def __len__(self) -> int:
        return len(self.texts) + self.places

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row as a collator takes it; those behind the data are the drawn ones."""
        if index < len(self.texts):
            return dict(self.encoded[index])
        number, changed = self._found[index - len(self.texts)]
        row = dict(self.encoded[number])
        if changed is None:
            return row
        context = self.texts[number].context
        texts = [changed] if context is None else [changed, context]
        if self.protocol.part == "second":
            texts.reverse()
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.max_length)
        return row | dict(encoded)

    def __str__(self) -> str:
        often = "each epoch" if self.every == 1 else f"every {self.every} epochs"
        return (
            f"{self.places} of {len(self.texts)} texts attacked by {self.attack} {often}, after "
            f"{self.start}"
        )

    def description(self) -> dict[str, Any]:
        """The attack with its numbers, as JSON holds it."""
        numbers = {"share": self.share, "every": self.every, "start_epoch": self.start}
        return {"attack": self.attack, "protocol": self.protocol.name, **numbers, "seed": self.seed}

    def check_epochs(self, epochs: float) -> None:
        """Refuse a run that ends before the first attack.

        Raises:
            UserError: it does.
        """
        if self.start >= epochs:
            raise UserError(
                f"The run has {epochs:g} epochs, and attacks on words begin after {self.start}; "
                f"begin earlier (--adv_words_start_epoch), or train longer."
            )

    def draw(self, epoch: int) -> None:
        """Fill the places with rows drawn for an epoch, as they are."""
        rng = random.Random(f"{self.seed}/{epoch}")
        self._found = [(row, None) for row in rng.sample(range(len(self.texts)), self.places)]

    def attack_with(self, trainer: Trainer) -> None:
        """Have a Trainer's model attacked as its epochs begin."""
        trainer.add_callback(_Attacks(self, trainer))


class _Attacks(TrainerCallback):
    """Fills the places of a training set as epochs begin, and remembers them with checkpoints."""

    def __init__(self, data: AttackedTexts, trainer: Trainer) -> None:
        self._data, self._trainer = data, trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Refuse what could not work, and take up what a checkpoint has kept."""
        data = self._data
        if sharding(self._trainer) is not None:
            raise UserError(
                "Attacks on words need the whole model in each process, which this run keeps in "
                "parts; use DDP."
            )
        if args.dataloader_persistent_workers and args.dataloader_num_workers:
            raise UserError(
                "Workers that outlive an epoch would go on with the texts of the first; leave "
                "--dataloader_persistent_workers off."
            )
        if self._trainer.train_dataset is not data:
            raise UserError("The Trainer's train_dataset is another one than is attacked.")
        data.check_epochs(state.num_train_epochs)
        places = getattr(getattr(self._trainer.model, "config", None), "max_position_embeddings", 0)
        if 0 < (places or 0) < data.max_length:
            raise UserError(
                f"The model has places for {places} tokens, and attacked texts may grow to the "
                f"{data.max_length} after which they are cut; pass a smaller --max_seq_length."
            )
        len(data.encoded)  # once, before there are workers
        self._engine(0)[1].try_functions(data.texts[:32])
        data.warnings.clear()
        data.draw(0)
        kept = _memory(state).get(_KEY)
        if kept is not None and state.global_step > 0:
            if kept["run"] != self._run():
                raise UserError(
                    "The checkpoint was trained with another attack on words, or with other "
                    "numbers of it; resume with what it was trained with, or begin a new run."
                )
            data._found = [(int(row), text) for row, text in kept["found"]]
        elif state.global_step > 0:
            raise UserError(
                "The checkpoint was trained without attacks on words; resume without them, or "
                "begin a new run with its weights."
            )
        else:
            _memory(state)[_KEY] = self._kept(-1, 0, 0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Attack, where it is due and a checkpoint has not brought what was found."""
        data, epoch = self._data, int(state.epoch or 0)
        kept = _memory(state)[_KEY]
        is_due = epoch >= data.start and (epoch - data.start) % data.every == 0
        if epoch < data.start:
            data.draw(epoch)
        if not is_due or kept["epoch"] == epoch:
            return
        data.draw(epoch)
        results = self._attacked(epoch, args)
        texts = {one.id: one.adversarial for one in results if one.outcome == "fooled"}
        data._found = [(row, texts.get(row)) for row, _ in data._found]
        fooled, wrong = len(texts), sum(one.outcome == "wrong" for one in results)
        counts = {"drawn": len(results), "attacked": len(results) - wrong, "fooled": fooled}
        self._trainer.log({f"words_{name}": float(count) for name, count in counts.items()})
        attacked = kept["attacked"] + counts["attacked"]
        _memory(state)[_KEY] = self._kept(epoch, attacked, kept["fooled"] + fooled)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Warn where all attacks together found nothing."""
        kept = _memory(state)[_KEY]
        if kept["fooled"] == 0:
            said = (
                f"{self._data.attack} attacked {kept['attacked']} texts during training and "
                f"fooled the model with none: nothing adversarial was trained on. Take a stronger "
                f"attack or a looser protocol."
            )
            self._data.warnings.append(said)
            if args.process_index == 0:
                logger.warning(said)

    def _attacked(self, epoch: int, args: TrainingArguments) -> list[WordResult]:
        """What came of the drawn rows, each process its share of them, in the order of the rows."""
        data = self._data
        mine = data._found[args.process_index :: args.world_size]
        attack, engine = self._engine(epoch)
        results = list(engine.run(attack, [data.texts[row] for row, _ in mine]))
        if args.world_size > 1:
            results = gather_object(results)
        return sorted(results, key=lambda one: one.id)

    def _engine(self, epoch: int) -> Any:
        data, model = self._data, self._trainer.model
        assert isinstance(model, torch.nn.Module)
        victim = Victim(model, data.tokenizer)
        splicer = Splicer(data.tokenizer, data.max_length, data.protocol.part)
        digits = hashlib.sha256(f"{data.seed}/{epoch}".encode()).digest()
        seed = int.from_bytes(digits[:6], "big")  # other edits of the same text in other epochs
        engine = build_engine(victim, splicer, data.protocol, data.resources, seed=seed)
        return build_attack(data.attack, data.resources, victim, splicer), engine

    def _kept(self, epoch: int, attacked: int, fooled: int) -> dict[str, Any]:
        return {
            "run": self._run(),
            "epoch": epoch,
            "found": [list(one) for one in self._data._found],
            "attacked": attacked,
            "fooled": fooled,
        }

    def _run(self) -> str:
        """Of all that the texts depend on but the model."""
        data = self._data
        attack, _ = self._engine(0)
        content = f"{attack_hash(attack, data.protocol, data.resources)} {data.description()}"
        digest = hashlib.sha256(content.encode())
        for text in data.texts:
            digest.update(f"{text.text}\0{text.context}\0{text.label}\n".encode())
        return digest.hexdigest()[:12]


def _memory(state: TrainerState) -> dict[str, Any]:
    """What a checkpoint's trainer_state.json keeps of callbacks, by name."""
    return cast(dict[str, Any], state.stateful_callbacks)
