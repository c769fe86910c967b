"""What one attack did to one example: the same for all attacks, and what belongs to a kind of them.

A line of a file of records is a JSON object with "version": 2; nan and infinities are null. What
belongs to a kind of attack stands in it under "words" or "point".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from nlp_adv.attacks.words.result import Outcome, WordResult
from nlp_adv.errors import UserError
from nlp_adv.robustness.record_before import upgraded

VERSION = 2
Norm = Literal["l2", "linf", "l1", "l0"]
Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Substitution:
    """What an attack on the words of a text did.

    Args:
        original: the attacked text; of a pair, the part that the protocol names.
        adversarial: the text that the attack ended with.
        context: the other text of a pair.
        words: of the original, as many as the model reads.
        words_changed: of those, in `adversarial`.
        queries: asked of the model, counted as the protocol counts them, the original included.
        tokens: in all texts that the model was run on, without padding.
        budget_stopped: whether the attack ended because its query budget was spent.
    """

    original: str
    adversarial: str
    context: str | None = None
    words: int
    words_changed: int
    queries: int
    tokens: int
    budget_stopped: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """What an attack on the numbers that a model reads did: δ on embeddings, pixels or a layer.

    Args:
        text: where the example is one; None of images.
        context: the other text of a pair.
        l2, linf, l1, l0: norms of δ in the unit of ε; 0 where nothing was tried, nan unknown.
        gradient_passes: passes of this example in which a gradient was taken.
        first_gradient: norm of the first gradient; 0: the attack saw none; nan: none was taken,
            or its length was not measured.
        first_loss, last_loss: the attack's own loss where it began and where it ended; nan where
            it looked at none.
        survives_8_bit: whether the wrong answer is still one after rounding to 256 levels; None
            where there is nothing to round.
        tokens: in all passes together, without padding.
    """

    text: str | None = None
    context: str | None = None
    l2: float = math.nan
    linf: float = math.nan
    l1: float = math.nan
    l0: float = math.nan
    gradient_passes: int = 0
    first_gradient: float = math.nan
    first_loss: float = math.nan
    last_loss: float = math.nan
    survives_8_bit: bool | None = None
    tokens: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """What one attack, with all its starts, did to one example.

    Two are equal where their lines are: nan is nan there.

    Args:
        id: the example's number in the data, from 0; models are compared on equal ids.
        attack: the attack's name.
        epsilon: its radius, in its own unit; None of an attack that has none.
        label: the right class.
        prediction: the answer without attack.
        confidence: softmax probability of that answer; nan where the logits are no numbers.
        adversarial_prediction: the answer under the attack.
        adversarial_confidence: softmax probability of that answer.
        outcome: "wrong": wrong without attack, and not attacked; "robust": right whatever the
            attack did; "fooled": led to another answer, or to the target.
        example: 12 hexadecimal digits of what the clean example holds; "" unknown.
        forwards: passes of this example through the model.
        found: what belongs to the kind of attack.
    """

    id: int
    attack: str
    epsilon: float | None = None
    label: int
    prediction: int
    confidence: float
    adversarial_prediction: int
    adversarial_confidence: float
    outcome: Outcome
    example: str = ""
    forwards: int = 0
    found: Substitution | Point = field(default_factory=Point)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and line(self) == line(other)

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def title(self) -> str:
        """The attack as tables name it.

        An attack on a text's embeddings has its radius behind an @, and one that has none says so:
        the accuracy that it leaves is that of any length of δ. One on pixels has its name alone:
        its radius is no whole number, and stands beside the table.
        """
        if self.text is None or self.changes_text:
            return self.attack
        if self.epsilon is None:
            return f"{self.attack}, any δ"
        return f"{self.attack}@{self.epsilon:g}"

    @property
    def key(self) -> tuple[str, float | None, int]:
        """What no other record of a run has."""
        return self.attack, self.epsilon, self.id

    @property
    def text(self) -> str | None:
        """The text that was attacked; None of images."""
        return self.found.original if isinstance(self.found, Substitution) else self.found.text

    @property
    def changes_text(self) -> bool:
        """Whether the attack replaces words, and does not move the numbers behind them."""
        return isinstance(self.found, Substitution)

    @property
    def attacked(self) -> bool:
        """Whether there was anything to do: the answer was right."""
        return self.outcome != "wrong"

    def without_text(self) -> Record:
        """The same without its texts, which `example` stands for."""
        found = self.found
        if isinstance(found, Substitution):
            return replace(self, found=replace(found, original="", adversarial="", context=None))
        text = None if found.text is None else ""  # images have none to leave out
        return replace(self, found=replace(found, text=text, context=None))

    def norm(self, name: Norm) -> float:
        """‖δ‖; nan of attacks on words."""
        return math.nan if isinstance(self.found, Substitution) else getattr(self.found, name)


def record_of(result: WordResult) -> Record:
    """A search over words as a record."""
    common, own = ({f.name for f in fields(kind)} for kind in (Record, Substitution))
    content = vars(result)
    return Record(
        **{name: value for name, value in content.items() if name in common},
        example=digits_of_text(result.original, result.context),
        found=Substitution(**{name: value for name, value in content.items() if name in own}),
    )


def digits_of_text(text: str, context: str | None = None) -> str:
    """12 hexadecimal digits of a text, or of a pair."""
    content = text if context is None else f"{text}\0{context}"
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def digits_of_pixels(x: Tensor) -> list[str]:
    """12 hexadecimal digits of each image's hash."""
    rows = [row.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for row in x]
    return [hashlib.blake2b(content, digest_size=6).hexdigest() for content in rows]


_KINDS: dict[str, type[Substitution] | type[Point]] = {"words": Substitution, "point": Point}
START = f'{{"version": {VERSION}, "id": '.encode()  # of every line


def line(record: Record) -> bytes:
    """A record as it is written."""
    kind = next(name for name, one in _KINDS.items() if isinstance(record.found, one))
    content = {"version": VERSION, **_plain(record), kind: _plain(record.found)}
    del content["found"]
    text = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
    # Half a surrogate pair is no UTF-8; written \udxxx, it is what JSON calls it, too.
    return text.encode("utf-8", "backslashreplace")


def parsed_record(value: Any, where: str) -> Record:
    """A record from a line's JSON, of this version or of one before.

    Args:
        value: the JSON.
        where: file and line, for messages.

    Raises:
        UserError: it is no record.
    """
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object; name a file of records.")
    version = value.get("version", 1)
    if version == 1:
        value = upgraded(value, where)
    elif version != VERSION:
        raise UserError(
            f"{where}: the record has version {version!r:.40}; a later version of nlp_adv wrote "
            "it: read it with that one."
        )
    content = {name: one for name, one in value.items() if name != "version"}
    kinds = content.keys() & _KINDS.keys()
    if len(kinds) != 1:
        raise UserError(
            f"{where}: a record has one of the fields words and point, not {len(kinds)}; name a "
            "file of records."
        )
    kind = kinds.pop()
    own = content.pop(kind)
    if not isinstance(own, dict):
        raise UserError(f"{where}: {kind} is {own!r:.40}, not a JSON object; mend it.")
    found = checked(_KINDS[kind], own, where)
    return checked(Record, content, where, found=found)


def checked(kind: type[Kind], value: Mapping[str, Any], where: str, **given: Any) -> Kind:
    """A dataclass from JSON whose names and types are its own.

    Args:
        kind: the dataclass.
        value: the JSON.
        where: file and line, for messages.
        given: fields that are not in it.

    Raises:
        UserError: a field is missing, unknown or of another type.
    """
    own = {one.name: one for one in fields(kind) if one.name not in given}  # type: ignore[arg-type]
    required = {
        name
        for name, one in own.items()
        if one.default is MISSING and one.default_factory is MISSING
    }
    for what, names in (("no", required - value.keys()), ("an unknown", value.keys() - own)):
        if names:
            raise UserError(
                f"{where}: {what} field {', '.join(sorted(names))}; name a file of records that "
                "this version of nlp_adv wrote."
            )
    content: dict[str, Any] = {}
    for name, one in value.items():
        declared = str(own[name].type)
        if type(one) not in _TYPES[declared]:
            raise UserError(f"{where}: {name} is {one!r:.40}, not {declared}; mend it.")
        if declared == "Outcome" and one not in get_args(Outcome):
            raise UserError(
                f"{where}: the outcome is {one!r:.40}; it must be {', '.join(get_args(Outcome))}."
            )
        is_float = declared == "float" or (declared == "float | None" and one is not None)
        content[name] = (math.nan if one is None else float(one)) if is_float else one
    return kind(**content, **given)


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "bool | None": (bool, type(None)),
    "Outcome": (str,),
    "float": (float, int, type(None)),
    "float | None": (float, int, type(None)),
    "str | None": (str, type(None)),
}


def _plain(one: Any) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in vars(one).items()
    }
