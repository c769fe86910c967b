"""A model of texts under attacks on words, on characters and on what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from torch import nn

from nlp_adv.attacks.words.attacks.build import (
    Resources,
    attack_hash,
    build_attack,
    build_engine,
)
from nlp_adv.attacks.words.attacks.input_reduction import InputReduction
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Attack, Engine, Text
from nlp_adv.attacks.words.predictor import Characters, Predictor
from nlp_adv.attacks.words.protocols import Protocol, protocol_named
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.data.vocabulary import check_vocabulary
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import answers, divergence_found, evaluating
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_records import check_overlap, check_transfer, robust_to
from nlp_adv.robustness.data import attack_data
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.evaluation import Attempt, environment, evaluated
from nlp_adv.robustness.fingerprint import attack_fingerprint, fingerprint
from nlp_adv.robustness.processes import ALONE, Processes
from nlp_adv.robustness.record import Record, Substitution
from nlp_adv.robustness.runners import PointRunner, Runner, TextReader, WordRunner
from nlp_adv.robustness.shards import Shard
from nlp_adv.robustness.what_is_read import notes_on, readable
from nlp_adv.robustness.white_box import WhiteBox
from nlp_adv.sites.any_model import torch_model

if TYPE_CHECKING:
    from transformers import Pipeline, PreTrainedTokenizerBase


def evaluate_robustness(
    model: nn.Module | Pipeline,
    tokenizer: PreTrainedTokenizerBase | Characters,
    dataset: Dataset | Sequence[Mapping[str, Any]],
    attacks: str | Sequence[str | Attack] = ("deepwordbug",),
    *,
    protocol: str | Protocol = "default",
    resources: Resources | None = None,
    white_box: WhiteBox | None = None,
    transfer: Sequence[Record] = (),
    trained_on: Sequence[str | Sequence[str]] = (),
    clean_on_all: bool = False,
    seed: int = 0,
    max_examples: int | None = None,
    max_length: int = 128,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    target: int | None = None,
    shard: Shard | None = None,
    tokens_per_batch: int | None = None,
    bf16: bool = False,
    embedding: str | None = None,
    output_dir: str | Path | None = None,
    name: str = "the data",
    progress: bool = True,
    processes: Processes = ALONE,
) -> Evaluation:
    """Attack a text classifier.

        from nlp_adv.data.text_demo import demo_dataset, demo_model, demo_tokenizer
        from nlp_adv.robustness import evaluate_robustness

        data = demo_dataset()
        tokenizer = demo_tokenizer(data["train"]["text"])
        model = demo_model(tokenizer)  # not trained yet
        evaluation = evaluate_robustness(
            model, tokenizer, data["test"], attacks=["deepwordbug"], max_examples=20
        )
        print(evaluation.clean, evaluation.worst_case)

    The model is attacked in eval mode on the device where it is, and left as it was. With an
    `output_dir`, finished examples are written to `records.jsonl` there at once, and a run that
    was killed goes on where it stopped. Texts in which there is nothing to read are left out, and
    counted in `notes`, where everything stands that a reader must know of these numbers.

    Args:
        model: a Hugging Face sequence classifier, or any module whose forward takes input_ids and
            attention_mask and returns logits: a tensor, a tuple or a mapping. Of a pipeline its
            model is attacked. A function of texts goes in a `Predictor`.
        tokenizer: its own.
        dataset: rows with one or two text columns and a label.
        attacks: names, or attacks.
        protocol: what they may do.
        resources: what they need.
        white_box: what is tried on the embeddings besides; None for nothing.
        transfer: records of attacks on another model, whose texts are tried on this one.
        trained_on: texts that the model was trained on, to look for the attacked ones among them.
        clean_on_all: whether to measure clean accuracy on all texts, not the attacked ones alone.
        seed: of the draw of texts and of the attacks.
        max_examples: attack a random draw of so many texts; None attacks all.
        max_length: tokens after which texts are cut; a function reads them whole.
        text_columns, label_column: found by their usual names where not given.
        target: attack towards this class; None for any wrong answer.
        shard: attack only the examples of one part.
        tokens_per_batch: of the model, padding included; None chooses by its device.
        bf16: multiply the model's matrices in bfloat16, which hardware made for it does faster and
            other hardware much slower. Logits of 8 bits tie more often, and a tie is wrong: these
            are other numbers, with another hash, and are not compared with those in float32.
        embedding: the word embedding's name, for models that do not say (a2t, hotflip, white_box).
        output_dir: where records are kept.
        name: of the data.
        progress: whether to show bars.
        processes: that share the texts, such as `launched()` finds under `accelerate launch` and
            `torchrun`; the main one returns the whole. Without, this one attacks all.

    Raises:
        UserError: something is missing or does not fit; nothing has been attacked then, or what is
            finished is kept.
    """
    chosen = protocol_named(protocol) if isinstance(protocol, str) else protocol
    resources = resources or Resources()
    model = torch_model(model)
    if (refusal := divergence_found(model)) is not None:
        raise UserError(refusal)
    victim = Victim(model, tokenizer, tokens_per_batch, embedding=embedding, bf16=bf16)
    if bf16 and isinstance(model, Predictor):
        raise UserError("bf16 is for models of torch; a function of texts computes as it does.")
    precision = {"precision": "bf16"} if bf16 else {}
    length = int(tokenizer.model_max_length)
    length = length if isinstance(tokenizer, Characters) else min(max_length, length)
    splicer = Splicer(tokenizer, length, chosen.part)
    engine = build_engine(victim, splicer, chosen, resources, target=target, seed=seed)
    built = [
        build_attack(one, resources, victim, splicer) if isinstance(one, str) else one
        for one in ([attacks] if isinstance(attacks, str) else attacks)
    ]
    if white_box is not None:
        victim.word_embedding()  # refused here, and not when all else is done
    data = attack_data(
        dataset,
        _configuration(victim, splicer),
        text_columns=text_columns,
        label_column=label_column,
        part=chosen.part,
        max_examples=max_examples,
        seed=seed,
        name=name,
    )
    attackable = readable(splicer, data.texts)
    if not attackable:
        raise UserError(f"There is nothing to attack: no text of {name} has anything to read.")
    if not isinstance(tokenizer, Characters):
        check_vocabulary(tokenizer, (text.text for text in attackable), "the model")
    engine.try_functions(attackable[:32])
    if target is not None and not 0 <= target < len(data.labels):
        raise UserError(f"The target {target} is no class: there are {len(data.labels)}.")
    texts = [text for text in attackable if shard is None or shard.takes(text.id)]
    words = [WordRunner(engine, one) for one in built]
    reader = TextReader(victim, splicer, None if white_box is None else white_box.site)
    points: list[PointRunner] = []
    if white_box is not None:
        points = white_box.runners(reader, attackable)
    where = None if white_box is None else white_box.where
    runners: list[Runner] = [*words, *points]
    run = Evaluation(
        protocol=chosen,
        hashes={one.name: attack_hash(one, chosen, resources, precision) for one in built}
        | {one.name: attack_fingerprint(one.ladder, where=where, **precision) for one in points},
        settings=precision,
        model=fingerprint(model),
        data=data.fingerprint,
        description=data.description,
        seed=seed,
        target=target,
        labels=data.labels,
        environment=environment(model) | precision,
        shard=None if shard is None else str(shard),
        texts=len(attackable),
        notes=data.notes,
    )
    clean: list[tuple[int, int]] = []

    def more(records: Sequence[Record]) -> list[Check]:
        checks = _transfer_checks(victim, splicer, records, transfer)
        if trained_on:
            checks.append(check_overlap(trained_on, [_both(text) for text in texts]))
        if clean_on_all:
            clean.append(_clean(victim, splicer, [*attackable, *readable(splicer, data.rest)]))
        return checks

    attempt = Attempt(
        run=run,
        runners=runners,
        reader=reader,
        chunks=[texts],
        curves=[] if white_box is None else [white_box.curve()],
        masking=None if white_box is None else white_box.masking(),
        more=more,
        work=lambda: asdict(victim.work),
        counters=((engine, "unspliced"), (victim, "unanswered")),
        total=sum(sum(map(one.wants, texts)) * len(one.radii) for one in runners),
    )
    with evaluating(model):
        title = "Attacking" if progress else None
        found = evaluated(attempt, output_dir, progress=title, processes=processes)
    if not processes.main:
        return found
    own = [*notes_on(engine, data.texts, attackable), *_randomness(built, seed)]
    own += [*_reduction(built, found.records), *_unanswered(victim), *_own_functions(engine)]
    return replace(found, clean_on_all=next(iter(clean), None), notes=[*found.notes, *own])


def _transfer_checks(
    victim: Victim, splicer: Splicer, records: Sequence[Record], other: Sequence[Record]
) -> list[Check]:
    """Whether another model's adversarial texts break this one more than its own attacks do.

    Args:
        victim, splicer: this model.
        records: of attacks on it.
        other: of attacks on the other model; those on embeddings have no texts to try.
    """
    checks = []
    for attack in dict.fromkeys(record.attack for record in records):
        theirs = [record for record in other if record.attack == attack]
        words = [one.found for one in theirs if isinstance(one.found, Substitution)]
        if not words:
            continue
        rows = splicer.whole([(one.adversarial, one.context) for one in words])
        said = answers(victim.logits(rows)).tolist()
        robust = {r.id: answer == r.label for r, answer in zip(theirs, said, strict=True)}
        direct = robust_to(record for record in records if record.attack == attack)
        check = check_transfer(direct, robust)
        checks.append(replace(check, name=f"{check.name} ({attack})"))
    return checks


def _clean(victim: Victim, splicer: Splicer, texts: Sequence[Text]) -> tuple[int, int]:
    """Right answers and texts."""
    rows = splicer.whole([(text.text, text.context) for text in texts])
    said = answers(victim.logits(rows)).tolist()
    right = sum(answer == text.label for text, answer in zip(texts, said, strict=True))
    return right, len(texts)


def _both(text: Text) -> str | tuple[str, str]:
    return text.text if text.context is None else (text.text, text.context)


def _randomness(attacks: Sequence[Attack], seed: int) -> list[str]:
    """What a reader must know of attacks that draw."""
    return [
        f"{attack.name} draws its edits at random, here with seed {seed}: another seed of the "
        f"attack gives another number. {getattr(attack, 'spread', 'By how much was not measured.')}"
        for attack in attacks
        if getattr(attack, "draws", False)
    ]


def _reduction(attacks: Sequence[Attack], records: Sequence[Record]) -> list[str]:
    """What the attacks that leave the answer as it is have to say of their records."""
    notes = []
    for attack in attacks:
        if isinstance(attack, InputReduction):
            mine = [one for one in records if one.attack == attack.name and one.outcome == "robust"]
            words = [one.found for one in mine if isinstance(one.found, Substitution)]
            notes.append(attack.note([one.words_changed / max(1, one.words) for one in words]))
    return notes


def _own_functions(engine: Engine) -> list[str]:
    """What a reader must know of functions that are not this package's."""
    notes = [
        f"{one.note()} Texts that it refuses were not tried." for one in engine.constraints.own
    ]
    if engine.goal is not None:
        notes.append(
            f"{engine.goal.note()} A text counts as fooled where it is reached, whatever the "
            f"answer."
        )
    return notes


def _configuration(victim: Victim, splicer: Splicer) -> Any:
    """What the model says of its classes; of one that says nothing, how many there are."""
    config = getattr(victim.model, "config", None)
    if hasattr(config, "id2label") and hasattr(config, "num_labels"):
        return config
    with evaluating(victim.model):
        (logits,) = victim.logits(splicer.whole([("a text", None)]))
    return SimpleNamespace(num_labels=len(logits), id2label={}, label2id={})


def _unanswered(victim: Victim) -> list[str]:
    """What a reader must know of a model whose arithmetic breaks down."""
    if not victim.unanswered:
        return []
    return [f"{victim.unanswered} answers of the model held inf or nan; they count as wrong."]
