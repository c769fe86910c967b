"""Tasks of `nlp-adv train` whose examples have several answers: tags, labels, next words."""

from __future__ import annotations

import json
import math
import sys
from abc import abstractmethod
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.attacks import Measured
from nlp_adv.attacks.measured_several import MeasuredSeveral
from nlp_adv.cli.loading import check_reads_on, load_tokenizer
from nlp_adv.cli.text_loading import source_of
from nlp_adv.cli.text_task import TextTask, refuse_names
from nlp_adv.data.several import (
    NONE,
    STARTS,
    load_multi_label,
    load_plain,
    load_tagged,
    tokenized_labels,
    tokenized_tags,
    tokenized_words,
)
from nlp_adv.data.text import TextData
from nlp_adv.errors import UserError
from nlp_adv.training.several import (
    Scores,
    compute_several,
    in_answers,
    label_scores,
    marks_entities,
    tag_scores,
    word_scores,
)

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments


class SeveralTask(TextTask):
    """Texts with several answers each; one δ a text attacks all of them."""

    next_words: ClassVar[bool] = False
    answer: ClassVar[str]  # what an answer is about, in the plural

    @classmethod
    def is_demo(cls, named: set[str]) -> bool:
        """There is none."""
        if super().is_demo(named):
            raise UserError(
                "The demo classifies sentences; another --task needs a model "
                "(--model_name_or_path) and data (--dataset_name or --train_file)."
            )
        if "task_name" in named:
            raise UserError("GLUE's tasks (--task_name) are classification; leave out --task.")
        if "regression" in named:
            raise UserError("--regression is for --task classification alone.")
        return False

    @property
    @abstractmethod
    def scores(self) -> Scores:
        """Of right answers and the model's."""

    def own_metrics(self) -> list[str]:
        """The names of the scores."""
        return list(self.scores([[0]], [[0]]))

    def compute_metrics(self) -> Any:
        """The scores of predictions, which the Trainer keeps as answers."""
        largest = self.label_names is not None
        return compute_several(self.scores, next_words=self.next_words, largest=largest)

    def for_trainer(self) -> dict[str, Any]:
        """With what makes answers of logits, so that an evaluation holds no logits."""
        return super().for_trainer() | {"preprocess_logits_for_metrics": in_answers}

    def under_attack(self, found: Measured, epsilon: float) -> dict[str, float]:
        """The scores beside accuracy at the δ of each text."""
        assert isinstance(found, MeasuredSeveral)
        right = found.by_example(found.right_answers)
        scores = self.scores(right, found.by_example(found.answers_at(epsilon)))
        return {name: value for name, value in scores.items() if name in self.shown}

    shown: ClassVar[tuple[str, ...]] = ("f1", "f1_macro")

    def meaning(self, found: Measured) -> str:
        """What an attack on several answers does, before what its radii are."""
        return (
            f"Under attack one perturbation a row makes as many of its {self.answer} wrong as it "
            f"can, and accuracy is the share of {self.answer} that stay right. "
            f"{super().meaning(found)}"
        )


class TokenTask(SeveralTask):
    """Tags of words, such as named entities."""

    auto, problem = AutoModelForTokenClassification, None
    examples = answer = "words"

    @property
    def hub_task(self) -> str:
        """What the Hub calls the task."""
        return "token-classification"

    @property
    def scores(self) -> Scores:
        """Of words and entities."""
        return tag_scores(self.label_names or ())

    @classmethod
    def read(cls, arguments: TrainArguments) -> TextData:
        """Words and tags."""
        return load_tagged(source_of(arguments), _names(arguments.data.label_names_file))

    @classmethod
    def tokenized(cls, data: TextData, tokenizer: Any, length: int) -> dict[str, Dataset]:
        """With a tag at each word's first token; says how many words have none."""
        found = tokenized_tags(data, tokenizer, length)
        for name, split in found.items():
            starts = list(chain.from_iterable(split[STARTS][:]))
            without = starts.count(-1)
            if without:
                print(
                    f"Note: {without} of {len(starts)} words of the {name} split are no token, or "
                    f"lie beyond --max_seq_length, and are neither trained on nor scored.",
                    file=sys.stderr,
                )
        return found

    @classmethod
    def load_tokenizer(cls, name: str, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
        """One that takes words: byte-level ones need a space before each."""
        tokenizer = load_tokenizer(name, hub)
        if getattr(tokenizer, "add_prefix_space", None) is False:
            tokenizer = load_tokenizer(name, {**hub, "add_prefix_space": True})
        return tokenizer

    def labels(self, split: str) -> list[Any]:
        """Of the words of a split."""
        rows = self.splits[split]["labels"]
        return [tag for tags in rows for tag in tags if tag != NONE]

    @property
    def collator(self) -> Any:
        """Rows → batch, whose labels are padded too; where words begin is for people."""
        pad = DataCollatorForTokenClassification(self.processor, label_pad_token_id=NONE)
        return _Without(pad, STARTS)

    def under_attack(self, found: Measured, epsilon: float) -> dict[str, float]:
        """F1 of entities, or over tags that mark none."""
        found_scores = super().under_attack(found, epsilon)
        if not marks_entities(self.label_names or ()):
            return found_scores
        return {"entity F1": found_scores["f1"]}

    def in_words(self, predictions: Any, rows: Any) -> list[str]:
        """A tag for each word, parted by spaces; a word that is no token has "O", or nothing."""
        names = self.label_names or ()
        without = "O" if "O" in names else "-"

        def tag(number: int) -> str:
            return names[number] if 0 <= number < len(names) else without

        return [
            " ".join(tag(int(said[place])) if place >= 0 else without for place in starts)
            for said, starts in zip(numpy.asarray(predictions), rows[STARTS], strict=True)
        ]


class MultiLabelTask(SeveralTask):
    """Any number of classes a text."""

    problem = "multi_label_classification"
    examples, answer = "rows", "labels"
    scores = staticmethod(label_scores)

    @classmethod
    def read(cls, arguments: TrainArguments) -> TextData:
        """Texts and lists of classes."""
        refuse_names(arguments)
        return load_multi_label(source_of(arguments))

    @classmethod
    def tokenized(cls, data: TextData, tokenizer: Any, length: int) -> dict[str, Dataset]:
        """With a yes or no for each class."""
        return tokenized_labels(data, tokenizer, length)

    def labels(self, split: str) -> list[Any]:
        """Of the rows of a split."""
        return [tuple(row) for row in self.splits[split]["labels"]]

    def compute_metrics(self) -> Any:
        """Without a largest answer, which says nothing of labels that are mostly no."""
        return compute_several(self.scores)

    def in_words(self, predictions: Any, rows: Any) -> list[str]:
        """The classes of each row, as a JSON list."""
        names = self.label_names or ()
        said = [numpy.flatnonzero(row == 1) for row in numpy.asarray(predictions)]
        return [json.dumps([names[place] for place in row], ensure_ascii=False) for row in said]


class CausalTask(SeveralTask):
    """A language model of the texts, each a row of its own."""

    auto, problem = AutoModelForCausalLM, None
    examples, answer = "rows", "next tokens"
    next_words = True
    shown = ()
    scores = staticmethod(word_scores)

    @property
    def has_accuracy(self) -> bool:
        """Of the next token."""
        return True

    @property
    def hub_task(self) -> str:
        """What the Hub calls the task."""
        return "text-generation"

    @classmethod
    def read(cls, arguments: TrainArguments) -> TextData:
        """Texts."""
        refuse_names(arguments)
        if arguments.data.label_column:
            raise UserError("A language model needs no labels; leave out --label_column.")
        if arguments.training.do_predict:
            raise UserError(
                "--do_predict writes what a classifier says; a language model is scored by its "
                "perplexity, in the table."
            )
        return load_plain(source_of(arguments))

    @classmethod
    def tokenized(cls, data: TextData, tokenizer: Any, length: int) -> dict[str, Dataset]:
        """With the tokens themselves for labels."""
        return tokenized_words(data, tokenizer, length)

    def check_fits(self, model: PreTrainedModel, arguments: TrainArguments) -> None:
        """Beside what every text needs: no answer of the model sees the token it is about."""
        super().check_fits(model, arguments)
        ids = next((ids for ids in self.splits["train"]["input_ids"] if len(ids) > 1), None)
        if ids is None:
            raise UserError("No training text has two tokens, so that there is none to predict.")
        check_reads_on(model, self.processor, ids)

    def labels(self, split: str) -> list[Any]:
        """None; as many as there are rows."""
        return [None] * len(self.splits[split])

    @property
    def collator(self) -> Any:
        """Rows → batch; labels are padded with −100, also where padding is an end token."""
        return DataCollatorForTokenClassification(self.processor, label_pad_token_id=NONE)

    def after_scoring(self, scores: dict[str, float], name: str) -> dict[str, float]:
        """The perplexity."""
        loss = scores[f"{name}_loss"]
        return {f"{name}_perplexity": perplexity(loss)}


def perplexity(loss: float) -> float:
    """exp of a mean loss of a token."""
    return math.exp(loss) if loss < 700 else math.inf


class _Without:
    """A collator that leaves a column out."""

    def __init__(self, collate: Any, column: str) -> None:
        self._collate, self._column = collate, column

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        kept = [{key: row[key] for key in row if key != self._column} for row in rows]
        batch = self._collate(kept)
        return {key: torch.as_tensor(value) for key, value in batch.items()}


def _names(file: str | None) -> list[str]:
    """Names of tags.

    Raises:
        UserError: the file holds no list of names.
    """
    if file is None:
        return []
    try:
        names = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--label_names_file {file} cannot be read ({error}).") from error
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or len(set(names)) < max(2, len(names)):
        raise UserError(f'--label_names_file {file} must be a JSON list of names, as ["O", "B-x"].')
    return list(names)
