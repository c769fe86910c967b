"""The flags of attacks on texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from nlp_adv.attacks import Ladder, ladder
from nlp_adv.attacks.registry import ATTACKS as POINT_ATTACKS
from nlp_adv.attacks.registry import SMALLEST, Settings, build_attack
from nlp_adv.attacks.words.attacks.build import ATTACKS
from nlp_adv.cli.arguments import check_radii, flag
from nlp_adv.cli.attack_arguments import AttackArguments, AttackFlags, VictimArguments
from nlp_adv.cli.word_arguments import WordArguments
from nlp_adv.errors import UserError
from nlp_adv.robustness.embedding import STEP_SIZE, embedding_pgd
from nlp_adv.robustness.point_protocols import POINT_PROTOCOLS, point_protocol
from nlp_adv.sites.parse import parse_site

if TYPE_CHECKING:
    from nlp_adv.robustness.white_box import WhiteBox

POINTS = tuple(name for name in POINT_ATTACKS if name not in ATTACKS)


@dataclass
class TextVictimArguments(VictimArguments):
    """The attacked model and the texts."""

    model_name_or_path: str = flag(
        "Attack this classifier: a folder, a name on the Hub, or FILE.py:NAME, a function of a "
        "list of texts that returns a row of scores for each.",
        "",
    )
    tokenizer_name: str | None = flag("Take its tokenizer from here, where it is somewhere else.")
    test_file: str | None = flag(
        "Attack the labelled texts of this file: csv, tsv, json, jsonl, their .gz, parquet."
    )
    dataset_name: str | None = flag(
        "Or those of this data set: a name on the Hub, a saved one, a folder of files."
    )
    task_name: str | None = flag("Or those of this GLUE task.")
    train_file: str | None = flag(
        "Say how many of the attacked texts are among the training texts of this file."
    )
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Read this column, or two for pairs; the usual names are found."},
    )
    label_column: str | None = flag("Read labels from this column; the usual names are found.")
    max_seq_length: int = flag("Cut inputs to so many tokens.", 128)
    inference_precision: Literal["saved", "bf16"] = flag(
        "With bf16 the model's matrices are multiplied in bfloat16, where the hardware does that "
        "faster. The numbers are others than in float32, with a hash of their own.",
        "saved",
    )


@dataclass
class TextAttackArguments(WordArguments, AttackArguments):
    """What is tried on it."""

    attacks: list[str] = field(
        default_factory=lambda: ["deepwordbug"],
        metadata={
            "help": f"Try any of {', '.join(ATTACKS)}; or, on the embeddings at --epsilons, "
            f"{', '.join(POINTS)}."
        },
    )
    goal: str | None = flag(
        "Let FILE.py:FUNCTION say when an attack has reached its goal: of logits and the right "
        "class it returns a number for each row, above 0 where it has. Without the flag the goal "
        "is a wrong answer."
    )
    shard: str | None = flag("Attack only part i of n: i/n; report puts the parts together.")
    tokens_per_batch: int | None = flag(
        "Give the model so many tokens at once, with padding; without the flag the device decides, "
        "and the number is halved when memory ends."
    )


@dataclass
class EmbeddingArguments:
    """The attack on word embeddings and the masking checks (evaluate)."""

    epsilons: list[float] = field(
        default_factory=lambda: [0.01, 0.02, 0.04, 0.08],
        metadata={
            "help": "Attack the embeddings with PGD at these radii, shares of the norm of a whole "
            "text's embeddings. One token may get all of it: at ε it moves by √tokens·ε of one "
            "token's norm (L2), so the same ε is more in longer texts."
        },
    )
    embedding_steps: int = flag("PGD on the embeddings takes so many steps.", 20)
    embedding_step_size: float = flag(
        "Its first step has this length, in shares of ε; the later ones shorten to nothing.",
        STEP_SIZE,
    )
    embedding_restarts: int = flag("It starts so many times.", 1)
    embedding_norm: str = flag("Measure its δ in this norm: l2 or linf.", "l2")
    embedding_per: str = flag("Bound δ once an example, or once a token.", "example")
    embedding_examples: int = flag("Attack the embeddings of the first so many drawn texts.", 200)
    embedding_attacks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Try further attacks there: any of fgsm, fgm, bim, mi-fgsm, apgd, apgd-t, "
            "fab-t, square, auto (the last four in turn) and noise at the same radii; deepfool, cw "
            "and smallest-pgd, which look for each text's robust radius, the smallest δ that "
            "changes its answer."
        },
    )
    embedding_queries: int = flag("Give square, alone and in auto, so many forward passes.", 1000)
    embedding_protocol: str | None = flag(
        f"Try the attacks of this protocol there, with its settings, for numbers to publish: "
        f"{', '.join(POINT_PROTOCOLS)}."
    )
    embedding_site: str | None = flag(
        "Add δ here instead of at the word embeddings: layer:NAME (the output of any "
        "module, such as layer:bert.encoder.layer.3), embedding:NAME, or several with commas."
    )
    checks: bool = flag("Run the checks for gradient masking.", True)
    check_examples: int = flag("Run them on the first so many texts.", 100)

    def white_box(self, named: Iterable[str] = ()) -> WhiteBox | None:
        """What is tried on the embeddings; None without radii.

        Args:
            named: attacks beside those of the flags; pgd is there anyway.

        Raises:
            UserError: a number that is out of range.
        """
        from nlp_adv.robustness.white_box import WhiteBox  # with it comes scipy

        check_radii("epsilons", self.epsilons)
        if not self.epsilons:
            return None
        if min(self.embedding_examples, self.check_examples) < 1:
            raise UserError("--embedding_examples and --check_examples must be at least 1.")
        if self.embedding_per not in ("example", "token"):
            raise UserError("--embedding_per can be example or token.")
        try:
            attack = embedding_pgd(
                tuple(self.epsilons),
                steps=self.embedding_steps,
                step_size=self.embedding_step_size,
                restarts=self.embedding_restarts,
                norm=self.embedding_norm,
                per="token" if self.embedding_per == "token" else "example",
            )
        except ValueError as error:
            raise UserError(f"The attack on embeddings: {error}") from error
        where: str = self.embedding_site or "embedding"
        site = None
        if self.embedding_site is not None:
            site = parse_site(self.embedding_site)
            if site is None:
                raise UserError("--embedding_site: texts have no pixels.")
        return WhiteBox(
            replace(attack, name=attack.name.replace("embedding", where)),
            self.embedding_examples,
            self.checks,
            self.check_examples,
            tuple(self._others(where, named)),
            site,
            "the embeddings" if site is None else where,
        )

    def _others(self, where: str, named: Iterable[str]) -> Iterator[Ladder]:
        """Further attacks, by name; a protocol's have its settings."""
        pgd = embedding_pgd((1.0,), self.embedding_steps, norm=self.embedding_norm).attack
        settings = Settings(
            replace(pgd.ball, per=self.embedding_per),
            self.embedding_step_size,
            unit="relative",
            steps=self.embedding_steps,
            shorten=True,
            loss="margin",
            restarts=self.embedding_restarts,
            queries=self.embedding_queries,
        )
        chosen = dict.fromkeys([*self.embedding_attacks, *named], settings)
        chosen.pop("pgd", None)
        if self.embedding_protocol is not None:
            fixed = point_protocol(self.embedding_protocol)
            own = replace(
                settings, steps=fixed.steps, restarts=fixed.restarts, queries=fixed.queries
            )
            chosen |= dict.fromkeys(fixed.attacks, own)
        for name, own in chosen.items():
            attack = build_attack(name, own)
            radii = () if name in SMALLEST else tuple(self.epsilons)
            yield ladder(attack, radii, name=f"{where}-{attack.name}")


class TextFlags(AttackFlags):
    """Of attacks on texts."""

    modality, other = "text", "image"
    data_usage = "--test_file FILE"

    @classmethod
    def kinds(cls, command: str) -> tuple[type, ...]:
        """The embeddings are attacked by `evaluate`, and where such an attack is named."""
        return (TextVictimArguments, TextAttackArguments, EmbeddingArguments)
