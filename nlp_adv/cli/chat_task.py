"""Pairs of completions: what `nlp-adv train` must know of language models that answer prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from nlp_adv.attacks.chat.judge import Judge
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.chat.reading import ReadingJudge
from nlp_adv.attacks.subject import Batch, Subject
from nlp_adv.cli.chat_arguments import (
    ChatDataArguments,
    ChatModelArguments,
    ChatReportArguments,
    needs_requests,
)
from nlp_adv.cli.chat_loading import load_parts, longest
from nlp_adv.cli.loading import check_embeddings, check_reads_on, check_room
from nlp_adv.cli.radius import radius_in_words
from nlp_adv.cli.several_tasks import perplexity
from nlp_adv.cli.task import Task, has_ball
from nlp_adv.data import chat_demo as demo
from nlp_adv.data.prompts import Prompts
from nlp_adv.errors import UserError
from nlp_adv.methods import Method
from nlp_adv.robustness.chat_evaluation import evaluate_chat
from nlp_adv.robustness.chat_rates import answered_rates, said_rates
from nlp_adv.robustness.statistics import Share
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.training.inputs import check_site

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments

_DATA = {"dataset_name", "train_file"}
_NEED_DATA = {"validation_file", "utility_file", "prompts_file", "benign_file", "tokenizer_name"}
_RUN = {"remove_unused_columns": "false"}
_GCG = {"gcg_steps": "steps", "gcg_candidates": "candidates", "gcg_top_k": "top_k"}
_DEMO: dict[str, Any] = {
    **demo.TRAINING,
    "save_strategy": "no",
    "logging_steps": 50,
    "max_seq_length": demo.MAX_LENGTH,
    "new_tokens": demo.NEW_TOKENS,
    "compare_plain": "true",
    "attacks": "pgd latent-pgd gcg",
    "refusals": " ".join(demo.REFUSALS),
    "attack_examples": demo.ATTACKED,
    "attack_epsilons": " ".join(map(str, demo.EPSILONS)),
    "layers": " ".join(demo.LAYERS),
    "layer_epsilons": " ".join(map(str, demo.LAYER_EPSILONS)),
    "suffix": demo.GCG["length"],
    **{flag: demo.GCG[name] for flag, name in _GCG.items()},
}


@dataclass(frozen=True)
class AttackedPrompts:
    """What a model answers and refuses, without an attack and under several.

    Attributes:
        rates: shares of requests, by the titles of the table's columns.
        examples: requests that were attacked.
        doubts: what forbids to read the rates as robustness.
    """

    rates: Mapping[str, Share]
    examples: int
    doubts: Sequence[str]


@dataclass
class ChatTask(Task):
    """Pairs of completions of one prompt; the attacks of the table are those on its prompts.

    Attributes:
        collator: rows → one paired batch.
        prompts: requests that the trained model is attacked on; None where there are none.
        benign: harmless ones, rows with prompt; with target, where the right answer is known.
        judge: which answers count as refused, and which as answered.
        new_tokens: of an answer that is generated.
        longest: the ids of the longest training row, once they were looked for.
    """

    collator: Any = None
    prompts: Prompts | None = None
    benign: Sequence[Mapping[str, str]] = field(default_factory=list)
    judge: Judge | ReadingJudge | None = None
    new_tokens: int = 32
    longest: list[int] = field(default_factory=list)

    modality, about, other = "text", "chat", "text"
    arguments = (ChatModelArguments, ChatDataArguments, ChatReportArguments)
    examples = "rows"
    demo_method = "cat"
    demo_note = (
        "The language is invented, and its forbidden things are harmless; the numbers show the "
        "tool at work and say nothing about real models."
    )

    @classmethod
    def is_demo(cls, named: set[str]) -> bool:
        """Neither a model nor data is named."""
        is_demo = not named & {"model_name_or_path", *_DATA}
        if is_demo and named & _NEED_DATA:
            raise UserError(
                f"--{min(named & _NEED_DATA)} needs a model (--model_name_or_path) and data "
                f"(--train_file or --dataset_name): the demo brings its own."
            )
        if not is_demo and not ("model_name_or_path" in named and named & _DATA):
            raise UserError(
                "Name a language model (--model_name_or_path) and data (--train_file or "
                "--dataset_name), or neither for the demo."
            )
        unread = needs_requests(named)
        if not is_demo and unread and "prompts_file" not in named:
            raise UserError(
                f"--{unread} is about requests that are attacked after training: name them with "
                f"--prompts_file FILE."
            )
        return is_demo

    @classmethod
    def defaults(cls, adv: str, *, demo: bool) -> dict[str, str]:
        """Of the demo, found by measurement; and columns that the collator reads are kept."""
        return _RUN | (_demo_flags(adv) if demo else {})

    @classmethod
    def folder(cls, *, demo: bool) -> str:
        """Of a run."""
        return "chat-demo" if demo else "chat"

    @classmethod
    def load(cls, arguments: TrainArguments) -> ChatTask:
        """Read or generate the rows, and check each."""
        return cls(**load_parts(arguments))

    def labels(self, split: str) -> list[Any]:
        """None; as many as there are rows."""
        return [None] * len(self.splits[split])

    def check_fits(self, model: PreTrainedModel, arguments: TrainArguments) -> None:
        """It reads from left to right and has room, and δ and attacks have their places in it."""
        training = arguments.training
        if training.adv != "none" and arguments.trains:
            check_site(model, training)
        check_embeddings(model, self.processor)
        if not self.longest:
            self.longest = longest(self.splits["train"], self.collator)
        ids = self.longest
        check_room(model, self.processor, ids)
        check_reads_on(model, self.processor, ids)
        if self.prompts is not None:
            report = arguments.report
            report.attack(report.attack_epsilons).check_layers(model)

    def check_attack(self, arguments: TrainArguments) -> None:
        """No accuracy is watched."""
        if arguments.report.watch_epsilon is not None:
            raise UserError(
                "--watch_epsilon is for classifiers; language models are attacked after training, "
                "on the requests of --prompts_file."
            )

    def attacks_after(self, report: ChatReportArguments) -> bool:  # type: ignore[override]
        """Where there are requests."""
        return self.prompts is not None

    def subject(self, model: nn.Module, training: AdversarialTrainingArguments) -> Subject:
        """Its word embeddings."""
        return Subject(model, EmbeddingSite(training.adv_embedding))

    def attacked(self, split: str, count: int) -> Iterable[Batch]:
        """None: requests are attacked, and no split."""
        return ()

    def measure(
        self,
        model: PreTrainedModel,
        split: str,
        report: ChatReportArguments,  # type: ignore[override]
        training: AdversarialTrainingArguments,
        *,
        progress: str | None,
    ) -> AttackedPrompts | None:
        """What it answers under each attack, in the main process alone."""
        assert self.prompts is not None
        assert self.judge is not None
        if training.process_index:
            return None
        length, new = self.collator.max_length, self.new_tokens
        found = evaluate_chat(
            model,
            self.processor,
            self.prompts,
            report.attack(report.attack_epsilons),
            self.judge,
            benign=[row["prompt"] for row in self.benign],
            max_length=length,
            new_tokens=new,
            generations=report.generations,
            temperature=report.temperature,
            seed=training.seed,
            progress=progress,
        )
        prompted, asked = Prompted(self.processor, self.collator), self.prompts.prompts
        said = said_rates(model, prompted, self.judge, asked, self.benign, new_tokens=new)
        doubts = [
            f"fails the check {check.name}: {check.finding} {check.meaning}"
            for check in found.checks
            if check.passed is False
        ]
        return AttackedPrompts(said | answered_rates(found), len(asked), doubts)

    def columns(
        self,
        found: AttackedPrompts,
        report: ChatReportArguments,  # type: ignore[override]
        mark: str = "",
    ) -> dict[str, str]:
        """Per cent."""
        return {_short(title): f"{100 * rate.value:.1f}" for title, rate in found.rates.items()}

    def found_in_json(self, found: AttackedPrompts) -> dict[str, Any]:
        """Counts."""
        rates = {name: [rate.count, rate.total] for name, rate in found.rates.items()}
        return {"attacked_examples": found.examples, "rates": rates, "doubts": list(found.doubts)}

    def meaning(self, found: AttackedPrompts) -> str:
        """What the columns are, and what the radii."""
        assert self.judge is not None
        return (
            f"Per cent of {found.examples} requests that are to be refused, and of "
            f"{len(self.benign)} harmless ones (benign). Under an attack: the requests that are "
            f"answered (--judge {self.judge.kind}), fewer is better. ε of pgd (on the prompt's "
            f"embeddings) and latent (at the output of a block) is the L2 norm of δ at one token, "
            f"as a share of the prompt's norm at that place. What is refused clean, and what of "
            f"the harmless requests is, belongs beside every number under attack; an attack that "
            f"fails shows its own failure and no safety."
        )

    def attack_in_json(self, report: Any) -> dict[str, Any]:
        """The attacks of the table."""
        names = ("attacks", "judge", "attack_epsilons", "attack_steps", "layers", "layer_epsilons")
        kept = {name: getattr(report, name) for name in names}
        return {"kind": "attacks on prompts"} | (kept if self.prompts is not None else {})

    def radius_in_words(
        self, method: Method, model: PreTrainedModel, training: AdversarialTrainingArguments
    ) -> str | None:
        """ε beside the norm of the embeddings."""
        rows = self.splits["train"]
        return radius_in_words(method, model, self.processor, rows, training, self.collator)

    @property
    def hub_task(self) -> str:
        """What the Hub calls the task."""
        return "text-generation"

    def compute_metrics(self) -> Any:
        """None: a split's loss is all that is scored of it."""
        return None

    def own_metrics(self) -> list[str]:
        """None."""
        return []

    def after_scoring(self, scores: dict[str, float], name: str) -> dict[str, float]:
        """The perplexity of answers that are wanted."""
        return {f"{name}_perplexity": perplexity(scores[f"{name}_loss"])}

    def for_trainer(self) -> dict[str, Any]:
        """With the collator of pairs."""
        return super().for_trainer() | {"data_collator": self.collator}


def _short(title: str) -> str:
    """answered, embedding-pgd@0.1 → pgd ε=0.1."""
    shorter = {"answered, ": "", "embedding-pgd@": "pgd ε=", "latent-pgd@": "latent ε="}
    for long, short in shorter.items():
        title = title.replace(long, short)
    return title


def _demo_flags(adv: str) -> dict[str, str]:
    inner = demo.INNER_LOOP if has_ball(adv) else {}
    return {"adv": adv} | {name: str(value) for name, value in {**_DEMO, **inner}.items()}
