"""Attacks on language models: their flags, what they need, and the run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from nlp_adv.cli.arguments import check_counts, check_radii, flag
from nlp_adv.cli.attack import Attacked, AttackTask
from nlp_adv.cli.attack_arguments import AttackArguments, VictimArguments
from nlp_adv.cli.chat_arguments import PromptAttackArguments
from nlp_adv.cli.evaluations import model_name, saved_report, training_of
from nlp_adv.cli.loading import load, load_tokenizer, to_device
from nlp_adv.data.prompts import read_benign, read_prompts
from nlp_adv.errors import UserError
from nlp_adv.robustness.chat_evaluation import evaluate_chat
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
class ChatAttackArguments(PromptAttackArguments, AttackArguments):
    """What is tried on it."""

    epsilons: list[float] = field(
        default_factory=lambda: [0.1, 0.2, 0.4],
        metadata={"help": "Radii of pgd, L2 per token, shares of the prompt's embedding norm."},
    )
    steps: int = flag("Of pgd and latent-pgd.", 15)


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
        check_counts(self.attack, "max_examples", "steps")
        (checks,) = parsed[2:] or (ChatCheckArguments(checks=False),)
        check_counts(checks, "check_examples")
        self._checks = checks.check_examples if checks.checks else 0
        check_radii("epsilons", self.attack.epsilons)
        self._attacks = self.attack.built(self.attack.epsilons, self.attack.steps)

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
        judge = attack.judged(prompts.chosen, benign)
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
