"""Sentences and pairs of them: what `nlp-adv train` must know of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow.compute  # type: ignore[import-untyped]
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.attacks import Measured
from nlp_adv.attacks.subject import Subject
from nlp_adv.cli.loading import check_embeddings, check_room, load_tokenizer
from nlp_adv.cli.radius import radius_in_words
from nlp_adv.cli.task import Task, has_ball
from nlp_adv.errors import UserError
from nlp_adv.methods import Method
from nlp_adv.perturbation.units import token_share
from nlp_adv.robustness.embedding import STEP_SIZE
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.training.inputs import check_site

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments
    from nlp_adv.training.attacked_texts import AttackedTexts


from nlp_adv.cli.text_arguments import TextDataArguments, TextModelArguments, TextReportArguments
from nlp_adv.cli.text_loading import load_parts, source_of
from nlp_adv.cli.word_arguments import WordTrainingArguments, chosen_protocol
from nlp_adv.data.text import TextData, load_text_data, tokenized

_DATA_FLAGS = {"task_name", "dataset_name", "train_file", "validation_file", "test_file"}
_NEED_DATA = {"text_columns", "label_column", "regression", "tokenizer_name"}
_DEMO_RUN = {
    "num_train_epochs": "4",
    "per_device_train_batch_size": "32",
    "per_device_eval_batch_size": "64",
    "learning_rate": "1.5e-3",
    "weight_decay": "0.01",
    "warmup_steps": "0.1",
    "logging_steps": "94",
    "save_strategy": "no",
    "attack_epsilons": "0.06",
    "compare_plain": "true",
}
# The demo trains from random weights, where an attack from the first step leaves a model that
# answers one class: two fifths of the run are ordinary, and ε then grows over three tenths.
_DEMO_START = {"adv_start_step": "0.4"}
_DEMO_BALL = {"adv_epsilon": "0.1", "adv_ramp_steps": "0.3"}


class TextTask(Task):
    """Sentences or pairs, tokenized; the attack of the table is PGD on the word embeddings."""

    modality, about, other = "text", "text", "image"
    auto: ClassVar[Any] = AutoModelForSequenceClassification
    problem: ClassVar[str | None] = "single_label_classification"
    _attacked: tuple[str, AttackedTexts] | None = None
    arguments = (TextModelArguments, TextDataArguments, TextReportArguments)
    of_training = (WordTrainingArguments,)
    examples = "rows"
    demo_note = (
        "The sentences are synthetic, made by this package; the numbers show the tool at work and "
        "say nothing about real text."
    )

    @classmethod
    def is_demo(cls, named: set[str]) -> bool:
        """Neither a model nor data is named."""
        is_demo = not named & {"model_name_or_path", *_DATA_FLAGS}
        if is_demo and named & _NEED_DATA:
            raise UserError(f"--{min(named & _NEED_DATA)} needs data: the demo brings its own.")
        if not is_demo and not ("model_name_or_path" in named and named & _DATA_FLAGS):
            raise UserError(
                "Name a model (--model_name_or_path) and data (--task_name, --dataset_name or "
                "--train_file), or neither for the demo."
            )
        return is_demo

    @classmethod
    def defaults(cls, adv: str, *, demo: bool) -> dict[str, str]:
        """Of the demo alone, found by measurement."""
        if not demo:
            return {}
        start = _DEMO_START if adv != "none" else {}
        return _DEMO_RUN | start | (_DEMO_BALL if has_ball(adv) else {})

    @classmethod
    def folder(cls, *, demo: bool) -> str:
        """Of a run."""
        return "demo" if demo else "run"

    @classmethod
    def load(cls, arguments: TrainArguments) -> TextTask:
        """Read or generate the texts, check them and tokenize them."""
        return cls(**load_parts(arguments))

    def attacked_texts(self, arguments: TrainArguments) -> AttackedTexts | None:
        """Of a classifier's texts."""
        words = arguments.words
        if words is None or words.adv_words == "none":
            return None
        if self.texts is None or self.label_names is None:
            raise UserError(
                "--adv_words attacks texts of one class each (--task classification); leave it out."
            )
        from nlp_adv.cli.victim import load_resources
        from nlp_adv.training.attacked_texts import AttackedTexts

        length = arguments.data.max_seq_length
        same = repr((words, arguments.training.seed, length))
        if self._attacked is not None and self._attacked[0] == same:
            return self._attacked[1]  # with its models, which need not be loaded again
        try:
            found = AttackedTexts(
                self.texts,
                self.processor,
                words.adv_words,
                protocol=chosen_protocol(words),
                resources=load_resources(words, [words.adv_words], arguments.model, length),
                share=words.adv_words_share,
                every=words.adv_words_every,
                start_epoch=words.adv_words_start_epoch,
                max_length=length,
                text_columns=[one for one in self.texts.column_names if one != "label"],
                label_column="label",
                seed=arguments.training.seed,
            )
        except UserError as error:
            raise UserError(f"--adv_words {words.adv_words}: {error}") from error
        self._attacked = same, found
        return found

    def labels(self, split: str) -> list[Any]:
        """Of the rows of a split."""
        return list(self.splits[split]["labels"])

    def check_fits(self, model: PreTrainedModel, arguments: TrainArguments) -> None:
        """An embedding for each token and each place of a text, and one to be perturbed."""
        report, training = arguments.report, arguments.training
        attacked = report.attack_epsilons or report.watch_epsilon is not None
        if attacked or (training.adv != "none" and arguments.trains):
            check_site(model, training)
        check_embeddings(model, self.processor)
        longest = max((_longest(split) for split in self.splits.values()), key=len)
        check_room(model, self.processor, longest)

    def subject(self, model: nn.Module, training: AdversarialTrainingArguments) -> Subject:
        """Its word embeddings."""
        return Subject(model, EmbeddingSite(training.adv_embedding))

    def meaning(self, found: Measured) -> str:
        """PGD on the embeddings, and what its radii are of one token."""
        tokens, shares = self._of_a_token(found)
        shown = ", ".join(f"{100 * share:.2g} %" for share in shares.values())
        steps: float = found.ladder.attack.step_size
        return (
            f"PGD: accuracy on its first {found.examples} rows, to be read beside the clean one of "
            f"these rows, under projected gradient ascent on the word embeddings, in steps from "
            f"{steps:g}·ε down; ε is the L2 norm of a sentence's perturbation, "
            f"as a share of its embeddings' norm. One token may get all of it: {shown} of one "
            f"token's norm in a row of {tokens:g} tokens, the median; in longer texts the same ε "
            f"is more."
        )

    def more(self, found: Measured) -> dict[str, Any]:
        """What each radius is of one token."""
        shares = self._of_a_token(found)[1]
        return {"share_of_a_token": {str(epsilon): share for epsilon, share in shares.items()}}

    def _of_a_token(self, found: Measured) -> tuple[float, dict[float, float]]:
        """The median length of a row, and of one token's norm the share that each radius is."""
        tokens, tried = float(found.tokens.double().median()), found.ladder
        radii = [radius for radius in found.radii if radius is not None]
        return tokens, {e: token_share(e, tokens, norm=tried.norm, per=tried.per) for e in radii}

    def attack_in_json(self, report: Any) -> dict[str, Any]:
        """The attack of the table."""
        return {
            "kind": "embedding PGD on the logit margin",
            "norm": "l2",
            "per": "example",
            "unit": "relative",
            "steps": report.attack_steps,
            "step_size": STEP_SIZE,
            "epsilons": report.attack_epsilons,
        }

    def radius_in_words(
        self, method: Method, model: PreTrainedModel, training: AdversarialTrainingArguments
    ) -> str | None:
        """ε beside the norm of the embeddings."""
        rows = self.splits["train"]
        return radius_in_words(method, model, self.processor, rows, training, self.collator)

    def for_trainer(self) -> dict[str, Any]:
        """With a collator that pads."""
        return super().for_trainer() | {"data_collator": self.collator}

    @property
    def collator(self) -> Any:
        """Rows → batch."""
        return DataCollatorWithPadding(self.processor)

    @classmethod
    def read(cls, arguments: TrainArguments) -> TextData:
        """The data that flags name, checked."""
        refuse_names(arguments)
        return load_text_data(source_of(arguments))

    @classmethod
    def tokenized(cls, data: TextData, tokenizer: Any, length: int) -> dict[str, Dataset]:
        """The splits as a model takes them."""
        return tokenized(data, tokenizer, length)

    @classmethod
    def load_tokenizer(cls, name: str, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
        """The tokenizer of a model."""
        return load_tokenizer(name, hub)

    def attacked(self, split: str, count: int) -> DataLoader[Any]:
        """Like lengths together, to spare padding."""
        rows = self.splits[split]
        rows = rows.select(range(min(count, len(rows))))
        lengths = [len(ids) for ids in rows["input_ids"]]
        rows = rows.select(sorted(range(len(rows)), key=lengths.__getitem__))
        return DataLoader(rows.with_format("torch"), batch_size=64, collate_fn=self.collator)


def refuse_names(arguments: TrainArguments) -> None:
    """Refuse names of tags for data that have none.

    Raises:
        UserError: they are given.
    """
    if arguments.data.label_names_file:
        raise UserError("--label_names_file is for --task token-classification alone.")


def _longest(split: Dataset) -> list[int]:
    """The token numbers of the longest row; Arrow looks for it without unpacking the others."""
    column: Any = split.with_format("arrow")[:]["input_ids"]
    lengths = pyarrow.compute.list_value_length(column).to_numpy()
    return list(split[int(lengths.argmax())]["input_ids"])
