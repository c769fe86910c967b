"""A language model under attacks that lead it to answer what it should refuse.

Each request is an example with two classes, refused (the right one) and answered, as a judge tells
them apart (`attacks.chat.judge`). So the accuracy without attack is the share of requests that are
not answered as they stand, the accuracy under attack the share that no attack got an answer to, and
the worst case is the union over attacks. Beside them stand two rates from generated answers: how
often the requests are refused without attack, and how often harmless ones are (over-refusal):
without these a number of robustness says nothing, since a model that refuses everything, or says
nothing that can be read, is as robust as can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nlp_adv.attacks.chat.answering import NAMES, REFUSED, Answering
from nlp_adv.attacks.chat.judge import Judge
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.chat.reading import Generations, ReadingJudge
from nlp_adv.attacks.words.engine import Text
from nlp_adv.data.pairs import PairCollator
from nlp_adv.data.prompts import Prompts
from nlp_adv.errors import UserError
from nlp_adv.robustness.chat_attacks import ChatAttacks
from nlp_adv.robustness.chat_runners import ChatReader, looked
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_chat import (
    check_refusals,
    check_unbounded,
    check_words,
    unknown_refusals,
)
from nlp_adv.robustness.checks_records import robust_to
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.evaluation import Attempt, environment, evaluated
from nlp_adv.robustness.fingerprint import attack_fingerprint, fingerprint
from nlp_adv.robustness.finished import FinishedParts
from nlp_adv.robustness.processes import ALONE, Processes
from nlp_adv.robustness.record import Record, digits_of_text
from nlp_adv.robustness.statistics import Share
from nlp_adv.sites.embeddings import EmbeddingSite


def evaluate_chat(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    attacks: ChatAttacks,
    judge: Judge | ReadingJudge,
    *,
    benign: Sequence[str] = (),
    max_length: int = 512,
    new_tokens: int = 32,
    generations: int = 1,
    temperature: float = 1.0,
    checks: int = 0,
    seed: int = 0,
    output_dir: str | Path | None = None,
    name: str = "the data",
    progress: str | None = "Attacking",
    processes: Processes = ALONE,
) -> Evaluation:
    """Attack what a language model refuses.

    Args:
        model: a causal language model; it is attacked in eval mode and left as it was.
        tokenizer: with a chat template.
        prompts: requests, and the answers that an attacker wants.
        attacks: what is tried.
        judge: which answers count: a `Judge` of probabilities, or a function that reads answers,
            `ReadingJudge.of(function)`.
        benign: harmless requests, for over-refusal.
        max_length: tokens of prompt and target.
        new_tokens: of answers that are generated to see what is refused, and for judges that read.
        generations: that such a judge reads of each request and attack, see `Generations`: one
            that counts as answered is enough.
        temperature: of all generations but the first.
        checks: masking checks of `pgd` on the first so many requests; none with 0. A judge that
            reads is left out of them: they ask whether the target becomes likely.
        seed: of random starts, GCG and the generations.
        output_dir: records are kept here, and taken up again.
        name: of the data, for people.
        progress: the title of a progress bar.
        processes: that share the prompts.

    Raises:
        UserError: no chat template, no refusals, a target without room, a layer that is not there,
            several generations for a judge that reads none.
    """
    check_judge(judge, benign, generations)
    whole = not judge.reads and judge.kind == "exact"  # elsewhere a target may be a beginning
    prompted = Prompted(tokenizer, PairCollator(tokenizer, max_length=max_length), ended=whole)
    reading = Generations(generations, temperature, new_tokens, seed)
    answering = Answering(model, judge, tokenizer, prompts.prompts, reading)
    attacks.check_layers(model)
    longest = getattr(model.config, "max_position_embeddings", None)
    cut = prompted.check_room(prompts.prompts, prompts.targets, attacks.longer, longest)
    prompted.check_room(benign, ["."] * len(benign), 0, longest)
    for given in attacks.depths if "prefilling" in attacks.names else ():
        prompted.batch(prompts.prompts, prompts.targets, given)
    named = attacks.runners(answering, prompted, seed)
    runners = list(named.values())
    columns = zip(prompts.prompts, prompts.targets, strict=True)
    texts = [Text(n, prompt, REFUSED, target) for n, (prompt, target) in enumerate(columns)]
    judged = [attack_fingerprint(judge), *([reading] if judge.reads else [])]
    asked = {"judge": judged, "template": tokenizer.chat_template, "length": max_length}
    hashes = {
        runner.name: attack_fingerprint(attacks.settings(one), name=runner.name, **asked)
        for one, runner in named.items()
    }
    data = digits_of_text("\0".join(f"{one.text}\0{one.context}" for one in texts))
    found_model = fingerprint(model)
    run = Evaluation(
        hashes=hashes,
        attacks={
            runner.name: f"{runner.name} with {attacks.in_words(one)}, judged by {judge.kind}"
            for one, runner in named.items()
        },
        model=found_model,
        data=data,
        description=f"{len(texts)} requests, {name}",
        seed=seed,
        labels=NAMES,
        details=_details(attacks, judge, reading),
        environment=environment(model),
        texts=len(texts),
    )
    looked_at = answering
    if judge.reads:
        # Refused here, where nothing is left behind, if the function does not work.
        looked(answering, ChatReader(answering, prompted, EmbeddingSite()).plain(texts[:1]))
        looked_at = answering.searching()
    attempt = Attempt(
        run=run,
        runners=runners,
        reader=ChatReader(looked_at, prompted, EmbeddingSite()),
        chunks=[texts],
        classes=False,
        masking=attacks.masking(checks, seed, attack_fingerprint(judge)),
        more=partial(_comparisons, attacks),
        total=sum(len(one.radii) for one in runners) * len(texts),
    )
    found = evaluated(attempt, output_dir, progress=progress, processes=processes)
    if not processes.main:
        return found

    notes = [*found.notes, *_notes(judge, reading)]
    if cut:
        notes.append(
            f"{cut} of {len(texts)} targets lost their end to {max_length} tokens of prompt and "
            f"target; the judge sees what is left of them."
        )
    if not judge.refusals:
        check = unknown_refusals(judge.kind)
        return replace(found, checks=[*found.checks, check], notes=notes)

    def rates() -> list[int]:
        return [
            sum(judge.refused(one) for one in prompted.answers(model, some, new_tokens))
            for some in ([one.text for one in texts], list(benign))
        ]

    depends = [found_model, data, list(benign), list(judge.refusals), new_tokens]
    parts = FinishedParts(output_dir, depends)
    refused, over = parts.part("refusals", [tokenizer.chat_template], rates)
    check = check_refusals(Share(refused, len(texts)), Share(over, len(benign)))
    return replace(found, checks=[*found.checks, check], notes=[*notes, check.finding])


def check_judge(
    judge: Judge | ReadingJudge, benign: Sequence[str] = (), generations: int = 1
) -> None:
    """Whether a judge can do what it is asked for.

    Raises:
        UserError: several generations for a judge that reads none; harmless requests, and nothing
            that says what refusals begin with.
    """
    if generations != 1 and not judge.reads:
        raise UserError(
            f"The judge {judge.kind} reads no answers, so that {generations} generations would "
            f"change nothing: leave out --generations, or give a function that reads, --judge "
            f"FILE.py:FUNCTION."
        )
    if benign and not judge.refusals:
        raise UserError(
            "How many of the harmless requests are refused is told by what refusals begin with: "
            "give --refusals, such as --refusals sorry, or a column chosen, or leave out "
            "--benign_file."
        )


def _comparisons(attacks: ChatAttacks, records: Sequence[Record]) -> list[Check]:
    """What the records of several attacks say of each other."""
    by_title: dict[str, list[Record]] = {}
    for record in records:
        by_title.setdefault(record.title, []).append(record)
    checks = [
        check_unbounded(robust_to(some), attacks.suffix_steps)
        for title, some in by_title.items()
        if title.startswith("soft-suffix")
    ]
    radii = {
        some[0].epsilon: some for some in by_title.values() if some[0].attack == "embedding-pgd"
    }
    if radii and "gcg" in by_title:
        largest = max(radii, key=lambda one: one or 0.0)
        words = robust_to(by_title["gcg"])
        checks += check_words(robust_to(radii[largest]), words, largest or 0.0)
    return checks


def _notes(judge: Judge | ReadingJudge, reading: Generations) -> list[str]:
    """What a reader must know of a judge that is not this package's."""
    if not isinstance(judge, ReadingJudge):
        return []
    many = (
        f"{reading.count} generations a look, all but the first at temperature "
        f"{reading.temperature:g}"
        if reading.count > 1
        else "the greedy answer"
    )
    return [
        f"{judge.function.note()} It read {many}, of {reading.new_tokens} tokens at most; attacks "
        f"climb the likelihood of the target, and what they end in is read."
    ]


def _details(
    attacks: ChatAttacks, judge: Judge | ReadingJudge, reading: Generations
) -> dict[str, Any]:
    own = judge.function.fingerprint if isinstance(judge, ReadingJudge) else judge.kind
    return {
        "judge": own,
        "refusals begin with": ", ".join(judge.refusals),
        "threshold": judge.threshold if judge.reads or judge.kind == "target" else None,
        "generations": f"{reading.count}, temperature {reading.temperature:g}, "
        f"{reading.new_tokens} tokens"
        if judge.reads
        else None,
        "ε of the embeddings, a token": ", ".join(f"{one:g}" for one in attacks.epsilons),
        "steps": attacks.steps,
        "layers": ", ".join(attacks.layers),
        "ε of the layers, a token": ", ".join(f"{one:g}" for one in attacks.layer_epsilons),
        "soft suffix": f"{attacks.suffix} tokens, {attacks.suffix_steps} steps of "
        f"{attacks.suffix_step_size:g}, unbounded",
        "prefilled tokens": ", ".join(map(str, attacks.depths)),
        "gcg": str(attacks.gcg),
    }
