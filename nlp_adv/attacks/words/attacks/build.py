"""From an attack's name to the attack, with the resources that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from nlp_adv.attacks.words.attacks.a2t import A2T
from nlp_adv.attacks.words.attacks.checklist import CheckList
from nlp_adv.attacks.words.attacks.clare import CLARE
from nlp_adv.attacks.words.attacks.deepwordbug import DeepWordBug
from nlp_adv.attacks.words.attacks.genetic import Genetic
from nlp_adv.attacks.words.attacks.hotflip import HotFlip, Vocabulary
from nlp_adv.attacks.words.attacks.input_reduction import InputReduction
from nlp_adv.attacks.words.attacks.masked import BAE, BERTAttack
from nlp_adv.attacks.words.attacks.pwws import PWWS
from nlp_adv.attacks.words.attacks.static import Static
from nlp_adv.attacks.words.attacks.textbugger import TextBugger
from nlp_adv.attacks.words.attacks.textfooler import TextFooler
from nlp_adv.attacks.words.candidates import Source, TextBuggerEdits
from nlp_adv.attacks.words.constraints import Constraints, Tagger
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Attack, Engine
from nlp_adv.attacks.words.example import FillRequest, SimilarityRequest
from nlp_adv.attacks.words.language_models import MaskedLanguageModel, Similarity
from nlp_adv.attacks.words.own_functions import OwnFunction, name_of
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Segmenter
from nlp_adv.errors import UserError, no_such


@dataclass(frozen=True)
class Resources:
    """What attacks and constraints need besides the victim; the package ships none of it.

    Args:
        neighbours: word → neighbours, nearest first (textfooler, a2t, genetic, textbugger).
        synonyms: WordNet (pwws).
        masked_lm: a masked language model (bae, bert-attack, clare).
        encoder: a sentence encoder, for protocols with `min_similarity`.
        tagger: parts of speech, for protocols with `same_part_of_speech`.
        segmenter: a text → its words, where spaces do not part them (Chinese, Japanese, Thai).
        constraints: of one's own: functions of the original text and a list of changed ones that
            return True or False for each of these; others than allowed are never put to the model.
        goal: of one's own: a function of logits (N, C) and the right class that returns a number
            for each row, above 0 where the attack has reached its goal.
        tagger_name, segmenter_name: for the protocol's hash, where their own names are not enough.

    The last four enter the hash by `name` and `version`, their attributes; without a version a hash
    of their source stands for it.
    """

    neighbours: Source | None = None
    synonyms: Source | None = None
    masked_lm: MaskedLanguageModel | None = None
    encoder: Similarity | None = None
    tagger: Tagger | None = None
    segmenter: Segmenter | None = None
    constraints: Sequence[Any] = ()
    goal: Any = None
    tagger_name: str = ""
    segmenter_name: str = ""

    def own(self) -> tuple[list[OwnFunction], OwnFunction | None]:
        """The user's constraints and goal.

        Raises:
            UserError: one is no function, or cannot be known by a version.
        """
        goal = None if self.goal is None else OwnFunction.of("goal", self.goal)
        return [OwnFunction.of("constraint", one) for one in self.constraints], goal

    def needed(self, field: str, attack: str) -> Any:
        """One of these, which an attack cannot do without.

        Raises:
            UserError: it is not there.
        """
        found = getattr(self, field)
        if found is None:
            raise UserError(f"{attack} needs {_GIVEN_BY[field]}.")
        return found


# What counts as a word, a stop word and a query, beside the protocol's numbers. A change of these
# is a change of all numbers: 2 since combining marks belong to their word, stop words are function
# words alone, and what a model does not read is neither changed nor counted.
RULES = "2"

_GIVEN_BY = {
    "neighbours": "neighbours of words: fetch them once (nlp-adv resources get neighbours), or "
    "give a file {word: [candidates]} (--neighbours FILE)",
    "synonyms": "WordNet: fetch it once (nlp-adv resources get wordnet), or give its folder "
    "(--wordnet FOLDER) or a file {word: [candidates]}",
    "masked_lm": "a masked language model: name one (--masked_lm NAME_OR_FOLDER)",
}

Builder = Callable[[Resources, Victim, Splicer], Attack]
ATTACKS: dict[str, Builder] = {
    "deepwordbug": lambda resources, victim, splicer: DeepWordBug(),
    "textbugger": lambda resources, victim, splicer: TextBugger(
        TextBuggerEdits(resources.neighbours)
    ),
    "pwws": lambda resources, victim, splicer: PWWS(resources.needed("synonyms", "pwws")),
    "textfooler": lambda resources, victim, splicer: TextFooler(
        resources.needed("neighbours", "textfooler")
    ),
    "a2t": lambda resources, victim, splicer: A2T(resources.needed("neighbours", "a2t")),
    "hotflip": lambda resources, victim, splicer: HotFlip(Vocabulary.of(victim, splicer)),
    "bae": lambda resources, victim, splicer: BAE(resources.needed("masked_lm", "bae")),
    "clare": lambda resources, victim, splicer: CLARE(resources.needed("masked_lm", "clare")),
    "genetic": lambda resources, victim, splicer: Genetic(
        resources.needed("neighbours", "genetic")
    ),
    "checklist": lambda resources, victim, splicer: CheckList(),
    "input-reduction": lambda resources, victim, splicer: InputReduction(),
    "static": lambda resources, victim, splicer: Static(),
    "bert-attack": lambda resources, victim, splicer: BERTAttack(
        resources.needed("masked_lm", "bert-attack")
    ),
}


def build_attack(name: str, resources: Resources, victim: Victim, splicer: Splicer) -> Attack:
    """The attack of that name.

    Raises:
        UserError: there is none, or what it needs is not there.
    """
    _check_name(name)
    if name in ("a2t", "hotflip"):  # refused at once, and not at the first text
        if resources.goal is not None:
            raise UserError(
                f"{name} follows the gradient of the label's margin, which says nothing of a goal "
                f"of one's own; choose attacks that ask for scores alone."
            )
        victim.word_embedding()
        splicer.offsets(("a", None))
    return ATTACKS[name](resources, victim, splicer)


def _check_name(name: str) -> None:
    if name not in ATTACKS:
        raise no_such("attack", name, ATTACKS)


def check_attacks(names: Iterable[str], protocol: Protocol, resources: Resources) -> None:
    """Refuse, while there is no model yet, what could not be run on one.

    Raises:
        UserError: there is no such attack, or what it or the protocol needs is not there.
    """
    nobody: Any = None
    build_engine(nobody, nobody, protocol, resources)
    for name in names:
        _check_name(name)
        if name != "hotflip":  # which needs nothing but the model
            ATTACKS[name](resources, nobody, nobody)


def build_engine(
    victim: Victim,
    splicer: Splicer,
    protocol: Protocol,
    resources: Resources,
    *,
    target: int | None = None,
    seed: int = 0,
) -> Engine:
    """The engine under a protocol, with whatever answers the requests of attacks.

    Raises:
        UserError: the protocol compares sentences or parts of speech, and nothing is there for it;
            or a function of the user's is none.
    """
    if protocol.min_similarity is not None and resources.encoder is None:
        raise UserError(
            f"The protocol {protocol.name} compares sentences: name an encoder (--encoder "
            f"NAME_OR_FOLDER), or choose another protocol."
        )
    constraints, goal = resources.own()
    if goal is not None and target is not None:
        raise UserError(f"{goal} says what an attack is after, and so does a target; give one.")
    oracles = {FillRequest: resources.masked_lm, SimilarityRequest: resources.encoder}
    return Engine(
        victim,
        splicer,
        Constraints(protocol, resources.tagger, constraints),
        {kind: oracle for kind, oracle in oracles.items() if oracle is not None},
        target=target,
        goal=goal,
        segmenter=resources.segmenter,
        seed=seed,
    )


def attack_hash(
    attack: Attack,
    protocol: Protocol,
    resources: Resources,
    more: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Of all that the attack's numbers depend on but the model, the data and the seed.

    Args:
        attack, protocol, resources: what is tried, and what it may do.
        more: how the model is run, where that is not as it was saved.
    """
    used = {"attack": attack.name, "rules": RULES, **more}
    for field in fields(attack):  # type: ignore[arg-type]
        value = getattr(attack, field.name)
        if not isinstance(value, Vocabulary):  # the victim's own
            used[field.name] = str(getattr(value, "fingerprint", value))
    if protocol.min_similarity is not None and resources.encoder is not None:
        used["encoder"] = resources.encoder.fingerprint
    if protocol.same_part_of_speech:
        used["tagger"] = resources.tagger_name or _known_by("tagger", resources.tagger)
    if resources.segmenter is not None:
        used["segmenter"] = resources.segmenter_name or _known_by("segmenter", resources.segmenter)
    constraints, goal = resources.own()
    if constraints:
        used["constraints"] = ", ".join(sorted(one.fingerprint for one in constraints))
    if goal is not None:
        used["goal"] = goal.fingerprint
    return protocol.hash(used)


def _known_by(kind: str, function: Any) -> str:
    if str(getattr(function, "__module__", "")).startswith("nlp_adv."):
        return name_of(function)  # whose rules are `RULES`
    return OwnFunction.of(kind, function).fingerprint
