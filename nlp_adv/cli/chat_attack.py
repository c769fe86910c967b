"""Attacks on language models: their flags, what they need, and the run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from nlp_adv.attacks.chat.gcg import GCG
from nlp_adv.attacks.chat.judge import Judge, refusals_of
from nlp_adv.attacks.chat.reading import ReadingJudge
from nlp_adv.attacks.words.own_functions import found_at
from nlp_adv.cli.arguments import check_counts, check_radii, flag
from nlp_adv.cli.attack import Attacked, AttackTask
from nlp_adv.cli.attack_arguments import AttackArguments, VictimArguments
from nlp_adv.cli.evaluations import model_name, saved_report, training_of
from nlp_adv.cli.loading import load, load_tokenizer, to_device
from nlp_adv.data.prompts import read_benign, read_prompts
from nlp_adv.errors import UserError
from nlp_adv.robustness.chat_attacks import ATTACKS, ChatAttacks
from nlp_adv.robustness.chat_evaluation import check_judge, evaluate_chat
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.processes import Processes


@dataclass
class ChatVictimArguments(VictimArguments):
    """The attacked language model and the prompts."""

    model_name_or_path: str = flag(
        "A folder with a saved causal language model and its tokenizer, which has a chat template, "
        "or a name on the Hub.",
        "",
    )
    prompts_file: str | None = flag(
        "Requests that are to be refused: csv, tsv, json, jsonl, their .gz, parquet; columns "
        "prompt and target (or rejected), the answer that an attacker wants, perhaps chosen."
    )
    benign_file: str | None = flag(
        "Harmless requests, column prompt: how many the model refuses stands beside its robustness."
    )
    max_seq_length: int = flag("Tokens of prompt and target.", 512)
    new_tokens: int = flag("Of answers that are generated to see what is refused.", 32)


@dataclass
class ChatAttackArguments(AttackArguments):
    """What is tried on it."""

    attacks: list[str] = field(
        default_factory=lambda: list(ATTACKS),
        metadata={"help": f"Any of {', '.join(ATTACKS)}."},
    )
    judge: str = flag(
        "What counts as answered: exact (the whole target is generated), target (its mean "
        "log-probability is above log of --judge_threshold), refusal (most of the probability of "
        "the first token is no refusal's); or FILE.py:FUNCTION, a function of a list of requests "
        "and a list of answers that returns True, False or a score in [0, 1] for each.",
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
    epsilons: list[float] = field(
        default_factory=lambda: [0.1, 0.2, 0.4],
        metadata={"help": "Radii of pgd, L2 per token, shares of the prompt's embedding norm."},
    )
    steps: int = flag("Of pgd and latent-pgd.", 15)
    restarts: int = flag(
        "Their starts: the clean point, then points drawn for each request; one is enough.", 1
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


@dataclass
class ChatCheckArguments:
    """The masking checks (evaluate)."""

    checks: bool = flag("Run the masking checks of pgd, at the middle one of its radii.", True)
    check_examples: int = flag("With the first so many requests.", 100)


class ChatAttack(AttackTask):
    """Embeddings, layers, free tokens, prefilled answers and suffixes of words."""

    modality, other = "chat", "text"
    data_usage = "--prompts_file FILE --benign_file FILE"
    victim: ChatVictimArguments
    attack: ChatAttackArguments

    def __init__(self, command: str, parsed: Sequence[Any]) -> None:
        super().__init__(command, parsed)
        if not self.victim.model_name_or_path:
            return  # the first thing to be said
        if not self.victim.prompts_file:
            raise UserError("Name the requests that are to be refused: --prompts_file FILE.")
        unread = [
            name
            for name in ("dataset_name", "dataset_config_name", "split", "hub_dataset_id")
            if getattr(self.victim, name)
        ]
        if unread or self.attack.target:
            name = unread[0] if unread else "target"
            raise UserError(
                f"--{name} is not for prompts, which --prompts_file names: leave it out."
            )
        check_counts(self.victim, "max_seq_length", "new_tokens")
        check_counts(self.attack, "max_examples", "gcg_steps", "gcg_candidates", "gcg_top_k")
        check_counts(self.attack, "generations", "steps", "restarts", "suffix", "suffix_steps")
        (checks,) = parsed[2:] or (ChatCheckArguments(checks=False),)
        check_counts(checks, "check_examples")
        self._checks = checks.check_examples if checks.checks else 0
        for name in ("epsilons", "layer_epsilons"):
            check_radii(name, getattr(self.attack, name))
        self._attacks = self._built()

    @classmethod
    def kinds(cls, command: str) -> tuple[type, ...]:
        """`evaluate` has the masking checks as well."""
        first = (ChatVictimArguments, ChatAttackArguments)
        return (*first, ChatCheckArguments) if command == "evaluate" else first

    def check(self) -> None:
        """The prompts are there."""
        read_prompts(Path(str(self.victim.prompts_file)))
        if self.victim.benign_file:
            read_benign(Path(self.victim.benign_file))

    def run(self, processes: Processes, **more: Any) -> Evaluation:
        """Attack the prompts."""
        victim, attack = self.victim, self.attack
        path = Path(str(victim.prompts_file))
        prompts = read_prompts(path)
        everything = len(prompts.prompts)
        prompts = prompts.drawn(attack.max_examples, attack.seed)
        benign = read_benign(Path(victim.benign_file)) if victim.benign_file else ()
        refusals = refusals_of(attack.refusals, prompts.chosen)
        judge = _judge(attack, refusals)
        check_judge(judge, benign, attack.generations)
        named = victim.model_name_or_path
        model = load(AutoModelForCausalLM, "language model", named, victim.hub(named))
        tokenizer = load_tokenizer(named, victim.hub(named))
        to_device(model, victim.device)
        print(f"Attacking {named}; records go to {attack.output_dir}.", file=sys.stderr)
        found = evaluate_chat(
            model,
            tokenizer,
            prompts,
            self._attacks,
            judge,
            benign=benign,
            max_length=victim.max_seq_length,
            new_tokens=victim.new_tokens,
            generations=attack.generations,
            temperature=attack.temperature,
            checks=self._checks,
            seed=attack.seed,
            output_dir=attack.output_dir,
            name=f"drawn from {everything} of {path.name}",
            processes=processes,
        )
        return replace(found, name=model_name(named), training=training_of(named))

    def report(self, command: str, done: Evaluation) -> Attacked:
        """Save the evaluation, and write its page."""
        page, summary = saved_report(done, self.attack.output_dir, command, title="Prompt attacks")
        return Attacked(done, summary, done.checks, done.notes, page)

    def _built(self) -> ChatAttacks:
        attack = self.attack
        return ChatAttacks(
            names=tuple(attack.attacks),
            epsilons=tuple(attack.epsilons),
            steps=attack.steps,
            restarts=attack.restarts,
            layers=tuple(attack.layers),
            layer_epsilons=tuple(attack.layer_epsilons),
            suffix=attack.suffix,
            suffix_steps=attack.suffix_steps,
            suffix_step_size=attack.suffix_step_size,
            depths=tuple(attack.depths),
            gcg=GCG(attack.suffix, attack.gcg_steps, attack.gcg_candidates, attack.gcg_top_k),
        )


def _judge(attack: ChatAttackArguments, refusals: tuple[str, ...]) -> Judge | ReadingJudge:
    """One of the judges by name, or a function in a file."""
    found = found_at(attack.judge)
    if found is None:
        return Judge(attack.judge, refusals, attack.judge_threshold)  # type: ignore[arg-type]
    return ReadingJudge.of(found.value, refusals, attack.judge_threshold, found)
