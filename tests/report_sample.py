"""An invented evaluation, and its report as a browser, a person and a program read it."""

from __future__ import annotations

import itertools
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

from scipy.stats import norm

from nlp_adv.report import Curve, ModelResult, PublishedValue, Report, write_report
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.record import Point, Record, Substitution
from nlp_adv.robustness.statistics import Share

REVIEW = (
    "a warm and clever film that never loses its nerve the plot wanders but the two leads are "
    "splendid dull heavy handed and far too long it made me laugh more than I had hoped an honest "
    "small story told with great care nothing here is new yet all of it works"
)
WORDS = REVIEW.split()
NEW = {"film": "movie", "clever": "cunning", "dull": "boring", "laugh": "giggle", "long": "lengthy"}
ATTACKS = {"textfooler": 0.75, "deepwordbug": 0.6, "pgd eps=0.2": 0.5}
RADII = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
METHODS = {"plain": 1.0, "freelb": 0.75, "pgd": 0.7}


def record(id: int, attack: str, outcome: str, rng: random.Random, *, words: int = 18) -> Record:
    start = random.Random(id).randrange(len(WORDS) - words)  # one text for all models
    original = WORDS[start : start + words]
    adversarial = list(original)
    changed = rng.sample(range(words), rng.randint(1, 4)) if outcome != "wrong" else []
    if attack.startswith("pgd"):
        changed = []
    for place in changed:
        word = adversarial[place]
        adversarial[place] = NEW.get(word, word[:1] + word[1:][::-1])
    changed = [i for i, (a, b) in enumerate(zip(original, adversarial, strict=True)) if a != b]
    label = id % 2
    forwards = 1 if outcome == "wrong" else rng.randint(30, 400)
    queries = 1 if outcome == "wrong" else int(rng.lognormvariate(4, 0.9)) + 2
    tokens, sure = rng.randint(500, 9000), [rng.uniform(0.6, 1), rng.uniform(0.5, 1)]
    stopped = outcome == "robust" and rng.random() < 0.2
    texts = [" ".join(one) + "." for one in (original, adversarial)]
    found: Point | Substitution = Substitution(
        original=texts[0],
        adversarial=texts[1],
        words=words,
        words_changed=len(changed),
        queries=queries,
        tokens=tokens,
        budget_stopped=stopped,
    )
    name, at, radius = attack.partition("@")
    if at:
        found = Point(text=texts[0], tokens=tokens)
    return Record(
        id=id,
        attack=name,
        epsilon=float(radius) if at else None,
        label=label,
        outcome=outcome,
        forwards=forwards,
        prediction=1 - label if outcome == "wrong" else label,
        adversarial_prediction=label if outcome == "robust" else 1 - label,
        confidence=sure[0],
        adversarial_confidence=sure[1],
        found=found,
    )


def result(name: str, seed: int | None, *, texts: int = 60, weakness: float = 1.0) -> ModelResult:
    rng = random.Random(f"{name} {seed}")
    right = [rng.random() < 0.9 for _ in range(texts)]
    records = []
    for attack, rate in ATTACKS.items():
        for id in range(texts):
            fell = rng.random() < rate * weakness
            outcome = ("fooled" if fell else "robust") if right[id] else "wrong"
            records.append(record(id, attack, outcome, rng))
    points = {e: Share(round(texts * 0.9 * math.exp(-e * 4 * weakness)), texts) for e in RADII}
    return ModelResult(
        name=name,
        seed=seed,
        records=records,
        clean=Share(900 + rng.randint(0, 20), 1000),
        checks=[
            Check("accuracy at a large radius", True, "0.0 % at ε = 2", "The attack is too weak."),
            Check("scaled logits", True, "largest change 0.0 points", "The attack saw a softmax."),
            Check(
                "transfer from the undefended model",
                None if name == "plain" else name != "pgd" or seed == 0,
                "41.7 % under the transferred texts, 45.0 % under its own attack",
                "Texts made for another model fool this one better than its own attack does: its "
                "gradients or scores are hidden.",
            ),
        ],
        cost={"seconds": rng.uniform(40, 90), "forwards": 12345.0 * weakness, "tokens": 3.4e6},
        curves=[
            Curve(title="PGD, L2 per example", x_label="ε ÷ norm of the embeddings", points=points)
        ],
        description={"method": name, "epsilon": 0.45, "steps": 3, "per": "example"},
    )


def sample(methods: dict[str, float] = METHODS, seeds: tuple[int | None, ...] = (0, 1)) -> Report:
    return Report(
        title="Robustness on invented reviews",
        protocol={
            "name": "default",
            "version": 1,
            "max_changed": 0.3,
            "queries": None,
            "stop_words": False,
            "resources": {"candidates": "3f2a"},
        },
        protocol_hash="0123456789ab",
        data="60 invented reviews, 2 classes",
        seed=7,
        models=[result(n, s, weakness=w) for n, w in methods.items() for s in seeds],
        published=[
            PublishedValue(
                method="plain",
                attack="",
                metric="clean",
                value=88.96,
                spread=0.3,
                source="Raina et al., ACL 2024, Table 2, https://aclanthology.org/x_y",
                verified=True,
            ),
            PublishedValue(
                method="freelb",
                attack="textfooler",
                metric="under attack",
                value=19.51,
                spread=1.7,
                source="Raina et al., ACL 2024, Table 2",
                verified=True,
            ),
            PublishedValue(
                method="plain",
                attack="textfooler",
                metric="queries",
                value=166,
                source="TextFooler paper",
                verified=False,
            ),
            PublishedValue(
                method="ascc",
                attack="textfooler",
                metric="success",
                value=80.1,
                source="from memory",
                verified=False,
            ),
        ],
        commands=[
            "nlp-adv compare --protocol default --max_examples 60 runs/plain runs/freelb runs/pgd"
        ],
        environment={"nlp_adv": "0.2.0", "torch": "2.13.0", "device": "cpu"},
        labels=["negative", "positive"],
        notes=["Texts are cut after 128 tokens."],
    )


class Page(HTMLParser):
    """Elements and tables of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.words = ""
        self._cell: list[str] | None = None
        self.feed(text)

    def table(self, *columns: str) -> list[list[str]]:
        """The first one with these columns."""
        return next(one for one in self.tables if one and set(columns) <= set(one[0]))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "span" and self._cell is not None:
            self._cell.append("|")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append("".join(self._cell).replace("\xa0", " ").strip())
            self._cell = None

    def handle_data(self, data):
        self.words += data
        if self._cell is not None:
            self._cell.append(data)


def written(report: Report, folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in write_report(report, folder)}


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Tables of a Markdown page, notes divided by "|" as `Page` has them."""
    tables, lines = [], text.splitlines()
    for marked, run in itertools.groupby(lines, lambda line: line.startswith("|")):
        if marked:
            rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in run]
            del rows[1]
            cells = [[cell.strip().replace("<br>", "|") for cell in row] for row in rows]
            tables.append([[re.sub(r"\\(.)", r"\1", cell) for cell in row] for row in cells])
    return tables


def right_under(model: ModelResult, measure: str) -> dict[int, bool]:
    """Counted from the records by hand."""
    stood: dict[int, bool] = {}
    for one in model.records:
        if measure in ("clean", "worst case", one.title):
            good = one.prediction == one.label
            if measure != "clean":
                good = good and one.adversarial_prediction == one.label
            stood[one.id] = stood.get(one.id, True) and good
    return stood


def accuracy(model: ModelResult, measure: str) -> float:
    stood = right_under(model, measure)
    return sum(stood.values()) / len(stood)


def wilson(share: float, total: int) -> tuple[float, float]:
    z = norm.ppf(0.975)
    middle = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return (middle - half) / (1 + z**2 / total), (middle + half) / (1 + z**2 / total)
