"""The flags of language models: what is tried on their prompts, and what `train` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nlp_adv.attacks.chat.gcg import GCG
from nlp_adv.attacks.chat.judge import Judge, refusals_of
from nlp_adv.attacks.chat.reading import ReadingJudge
from nlp_adv.attacks.words.own_functions import found_at
from nlp_adv.cli.arguments import (
    LimitArguments,
    ModelArguments,
    ReportArguments,
    check_counts,
    check_radii,
    flag,
)
from nlp_adv.data.sources import DataSource
from nlp_adv.robustness.chat_attacks import ATTACKS, ChatAttacks
from nlp_adv.robustness.chat_evaluation import check_judge


@dataclass
class PromptAttackArguments:
    """What is tried on a language model, beside the radii of `pgd` and its steps."""

    attacks: list[str] = field(
        default_factory=lambda: list(ATTACKS),
        metadata={"help": f"Any of {', '.join(ATTACKS)}."},
    )
    judge: str = flag(
        "What counts as answered: exact (the whole target is generated, and ends there), begins "
        "(the answer begins with the target), target (such a beginning has a mean log-probability "
        "above log of --judge_threshold), refusal (most of the probability of the first token is "
        "no refusal's); or FILE.py:FUNCTION, a function of a list of requests and a list of "
        "answers that returns True, False or a score in [0, 1] for each.",
        "exact",
    )
    judge_threshold: float = flag(
        "For --judge target a probability a token; for a function the score that is enough.", 0.5
    )
    generations: int = flag(
        "Answers that a function reads of each request and attack; one that counts as answered is "
        "enough. The first is greedy.",
        1,
    )
    temperature: float = flag("Of all generations but the first.", 1.0)
    refusals: list[str] = field(
        default_factory=list,
        metadata={"help": 'What refusals begin with; of the column "chosen" without.'},
    )
    restarts: int = flag(
        "Starts of pgd and latent-pgd: the clean point, then points drawn for each request; one "
        "that succeeds is enough.",
        1,
    )
    layers: list[str] = field(
        default_factory=lambda: ["1"],
        metadata={"help": "Of latent-pgd: numbers of blocks, or names of modules."},
    )
    layer_epsilons: list[float] = field(
        default_factory=lambda: [0.3],
        metadata={"help": "Radii of latent-pgd, shares of the layer's own norm."},
    )
    suffix: int = flag("Free tokens of soft-suffix, and tokens of gcg's suffix.", 20)
    suffix_steps: int = flag("Of soft-suffix.", 100)
    suffix_step_size: float = flag("Of soft-suffix, a share of the suffix's norm; unbounded.", 0.05)
    depths: list[int] = field(
        default_factory=lambda: [1, 2],
        metadata={"help": "Of prefilling: how many tokens of the target are given."},
    )
    gcg_steps: int = flag("Of gcg.", 250)
    gcg_candidates: int = flag("That gcg tries at each step.", 512)
    gcg_top_k: int = flag("Tokens that gcg draws from, for each place.", 256)

    def built(self, epsilons: Sequence[float], steps: int) -> ChatAttacks:
        """The attacks, `pgd` at these radii.

        Raises:
            UserError: a value that is out of range.
        """
        check_counts(self, "gcg_steps", "gcg_candidates", "gcg_top_k", "generations", "restarts")
        check_counts(self, "suffix", "suffix_steps")
        check_radii("layer_epsilons", self.layer_epsilons)
        return ChatAttacks(
            names=tuple(self.attacks),
            epsilons=tuple(epsilons),
            steps=steps,
            restarts=self.restarts,
            layers=tuple(self.layers),
            layer_epsilons=tuple(self.layer_epsilons),
            suffix=self.suffix,
            suffix_steps=self.suffix_steps,
            suffix_step_size=self.suffix_step_size,
            depths=tuple(self.depths),
            gcg=GCG(self.suffix, self.gcg_steps, self.gcg_candidates, self.gcg_top_k),
        )

    def judged(self, chosen: Sequence[str], benign: Sequence[str] = ()) -> Judge | ReadingJudge:
        """The judge; refusals are told by these where no flag says what they begin with.

        Raises:
            UserError: an unknown judge, nothing that refusals begin with, or several generations
                for a judge that reads none.
        """
        refusals, found = refusals_of(self.refusals, chosen), found_at(self.judge)
        judge: Judge | ReadingJudge
        if found is None:
            judge = Judge(self.judge, refusals, self.judge_threshold)  # type: ignore[arg-type]
        else:
            judge = ReadingJudge.of(found.value, refusals, self.judge_threshold, found)
        check_judge(judge, benign, self.generations)
        return judge


@dataclass
class ChatModelArguments(ModelArguments):
    """Which language model; without one and without data, the demo's.

    Raises:
        UserError: a rank below 1.
    """

    tokenizer_name: str | None = flag("Its tokenizer, where it is somewhere else.")
    lora: bool | None = flag(
        "Train an adapter (LoRA, of peft) on all linear modules, not the weights. Unset: for "
        "models of more than 100 million parameters, and for methods that compare the model with "
        "what it was before."
    )
    lora_rank: int = flag("Of the adapter; its α is 16, its dropout 0.1.", 64)

    def __post_init__(self) -> None:
        check_counts(self, "lora_rank")


@dataclass
class ChatDataArguments(LimitArguments):
    """Which pairs of completions, which utility rows, and which requests are attacked after it."""

    dataset_name: str | None = flag(
        "A name on the Hub, a saved data set, or a folder with train and validation files."
    )
    dataset_config_name: str | None = flag("Configuration of a data set on the Hub.")
    train_file: str | None = flag(
        "Training rows: csv, tsv, json, jsonl, their .gz, parquet. Columns prompt, chosen (to be "
        "answered) and rejected (what an attacker wants); or messages, or prompt and completion."
    )
    validation_file: str | None = flag("Validation rows, for the perplexity of their answers.")
    utility_file: str | None = flag(
        "Utility rows, ordinary conversations that the model shall not unlearn: a column "
        "messages, or prompt and completion."
    )
    utility_each: int = flag("Utility rows beside each pair.", 7)
    prompts_file: str | None = flag(
        "Attack the trained model on these requests: columns prompt and target (or rejected), "
        "perhaps chosen. As nlp-adv attack --modality chat does."
    )
    benign_file: str | None = flag("Harmless requests, column prompt: how many are refused.")
    max_seq_length: int = flag("Tokens of prompt and completion; longer rows lose their end.", 512)
    new_tokens: int = flag("Of answers that are generated to see what is refused.", 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "utility_each", "max_seq_length", "new_tokens")

    def source(self, token: str | None) -> DataSource:
        """What `read_splits` reads."""
        names = ("dataset_name", "dataset_config_name", "train_file", "validation_file")
        return DataSource(**{name: getattr(self, name) for name in names}, token=token)


@dataclass
class ChatReportArguments(PromptAttackArguments, ReportArguments):
    """What is measured of the trained model, and where it may be written."""

    attack_epsilons: list[float] = field(
        default_factory=lambda: [0.1, 0.2, 0.4],
        metadata={"help": "Radii of pgd, L2 per token, shares of the prompt's embedding norm."},
    )
    attack_steps: int = flag("Of pgd and latent-pgd.", 15)
    attack_examples: int = flag("Attack a random draw of so many of the requests.", 500)

    def attack(self, epsilons: Sequence[float]) -> Any:
        """All attacks, `pgd` at these radii."""
        return self.built(epsilons, self.attack_steps)


def needs_requests(named: set[str]) -> str | None:
    """The first flag of these that says how requests are attacked; None without one."""
    kept = ("keep_at", "compare_plain", "overwrite_output_dir", "watch_epsilon")
    ours = set(ChatReportArguments.__dataclass_fields__) - set(kept)
    return min(named & (ours | {"benign_file", "new_tokens"}), default=None)
