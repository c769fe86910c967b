"""Adversarial training as command-line flags: `--adv freelb --adv_steps 3 …`."""

import inspect
import re
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Literal, cast

from torch import Tensor
from transformers import TrainingArguments

from nlp_adv.errors import UserError
from nlp_adv.methods import (
    Method,
    Modality,
    Schedule,
    all_methods,
    build,
    check_attacks,
    own_settings,
)
from nlp_adv.training.beginning import schedule_of
from nlp_adv.training.inputs import module_site

# Those of no one method.
_SHARED_FLAGS = (
    *("epsilon", "norm", "per", "unit", "share"),
    *("inner_precision", "inner_dropout", "inner_prefix"),
)


def _flag(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text.replace("%", "%%")})


def _method_flags() -> dict[str, tuple[Any, Any]]:
    """`adv_NAME`: (type, field) for every field of every method, None meaning the preset's value.

    The help is the field's line in the method's docstring.
    """
    types: dict[str, Any] = {}
    helps: dict[str, dict[str, list[str]]] = {}
    for method in all_methods().values():
        lines = _documented(method)
        for name, kind in own_settings(method).items():
            kind = float if kind == float | Tensor else kind
            if types.setdefault(name, kind) != kind:
                raise UserError(
                    f"The method {method.name} has a field {name} of type {kind}, which is "
                    f"{types[name]} in another method; give it another name."
                )
            text = lines.get(name, f"See {method.__name__}.")
            helps.setdefault(name, {}).setdefault(text, []).append(method.name)
    return {
        f"adv_{name}": (
            kind if kind is bool else kind | None,  # a bare --adv_reuse is true
            _flag(" ".join(f"{', '.join(who)}: {text}" for text, who in helps[name].items())),
        )
        for name, kind in types.items()
    }


def _documented(method: Any) -> dict[str, str]:
    """The first sentence on each field in the docstring's Args."""
    entries: list[tuple[str, str]] = []
    for one in reversed(method.__mro__):  # its own go before those of what it is built on
        section = ((one.__doc__ and inspect.cleandoc(one.__doc__)) or "").partition("Args:\n")[2]
        text = section.partition("\n\n")[0]
        entries += re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    sentences = {
        name: re.split(r"[.;](?:\s|$)", " ".join(text.split()))[0] for name, text in entries
    }
    return {name: f"{sentence}." for name, sentence in sentences.items()}


try:
    _METHOD_FLAGS = _method_flags()
except ValueError as error:  # a method of another package
    raise UserError(str(error)) from error
_MethodArguments: Any = make_dataclass(
    "_MethodArguments",
    [(name, kind, default) for name, (kind, default) in _METHOD_FLAGS.items()],
    namespace={"__module__": __name__},
)


class _FieldsOnDemand:
    """`__dataclass_fields__` of a class until its author, or the first reader, decorates it.

    Decorating every subclass as it is made would be too early: a second `@dataclass` by its author
    would find no defaults any more.
    """

    def __get__(self, instance: Any, owner: type) -> dict[str, Any]:
        return cast(dict[str, Any], vars(dataclass(owner))["__dataclass_fields__"])


@dataclass
class AdversarialArguments(_MethodArguments):  # type: ignore[misc]
    """The flags, to be put before any TrainingArguments: `class A(AdversarialArguments, TA)`.

    The decorator `@dataclass` may stand on such a class, and need not.

    A flag left unset keeps the method's preset (its paper's setting, ε as a share of the embedding
    norm; for images in pixels of [0, 1]). ε, step size and start are lengths in the same unit; with
    only ε given, the others keep their ratio to it. Beside those listed here there is a flag
    `adv_FIELD` for every field of every method, those of other packages included.

    Raises:
        UserError: an unknown method, a flag that the method does not have, a value out of range; or
            a class that names this one after its TrainingArguments.
    """

    adv: str = _flag(f"Adversarial training method: {', '.join(all_methods())}.", "none")
    adv_epsilon: float | None = _flag("Radius ε of the ball, in --adv_unit; inf for no ball.")
    adv_norm: Literal["l2", "linf", "l1"] | None = _flag("Norm of the ball.")
    adv_per: Literal["example", "token"] | None = _flag("What one norm covers.")
    adv_unit: Literal["absolute", "per_coordinate", "relative"] | None = _flag(
        "Unit of ε, step size and start: absolute, per_coordinate (ε per √(tokens·dim) for L2), or "
        "relative (ε as a share of the embedding norm). The last two grow with a text's length: "
        "one token may get all of δ, √tokens·ε of its own norm at a relative L2 ε."
    )
    adv_share: float | None = _flag(
        "Attack this share of each batch's rows and train on the others clean, in one pass: fgm, "
        "fgsm, pgd and noise with a clean_weight of 1 − share, for 1 + ⅔·steps·share."
    )
    adv_inner_precision: Literal["bf16"] | None = _flag(
        "Run the passes for δ alone under autocast to bfloat16, in a run in float32."
    )
    adv_inner_dropout: bool = _flag(
        "Whether the passes for δ alone have the step's dropout mask; false runs them without.",
        True,
    )
    adv_inner_prefix: Literal["once"] | None = _flag(
        "once: with --adv_site layer:NAME, compute what lies below the layer in the first of a "
        "step's passes for δ alone, and not again."
    )
    adv_start_step: float = _flag(
        "This many optimizer steps are ordinary ones; below 1, this share of the run.", 0.0
    )
    adv_ramp_steps: float = _flag(
        "Over the next so many steps ε grows to full size; below 1, this share of the run.", 0.0
    )
    adv_start_epoch: float = _flag("This many epochs are ordinary ones, such as 1 or 0.5.", 0.0)
    adv_start_when: str | None = _flag(
        "Steps are ordinary ones until a number of the log passes a threshold: eval_accuracy>0.8, "
        "or loss<0.4 for the mean training loss since the last log. Of several beginnings the "
        "latest holds."
    )
    adv_every: int = _flag("Attack at every so many steps only; the others are ordinary ones.", 1)
    adv_linear: str | None = _flag(
        "Numbers that change linearly, by the value that each begins at: steps=1,epsilon=0.01 go "
        "to --adv_steps and --adv_epsilon."
    )
    adv_linear_steps: float = _flag(
        "Over so many steps from the attack's beginning; below 1, this share of the run; 0, to the "
        "run's end.",
        0.0,
    )
    adv_exclude_special_tokens: bool = _flag("Leave [CLS], [SEP] and their like unmoved.", False)
    adv_embedding: str | None = _flag(
        "Name of the embedding module to perturb, for models that do not say which it is."
    )
    adv_site: str | None = _flag(
        "Where δ enters: embedding, embedding:NAME, layer:NAME (the output of any module, such as "
        "layer:bert.encoder.layer.3), or several with commas, one δ each; the word embeddings, or "
        "the pixels of images, where unset."
    )
    adv_span: Literal["all", "prompt", "completion"] | None = _flag(
        "Where δ may move in a language model's row: all, prompt or completion; the prompt where "
        "labels leave one out, else all, where unset. A column adv_mask goes before it."
    )
    adv_first_block: str | None = _flag(
        "Name of the module that yopo takes for the first block, where it is not found."
    )
    adv_seed: int | None = _flag("Seed of random starts; --seed where unset.")
    adv_nonfinite_steps: int = _flag(
        "Stop after this many optimizer steps in a row whose loss is inf or nan, with --adv none "
        "as well; 0 goes on.",
        3,
    )
    adv_mend_loss_scaling: bool = _flag(
        "Divide the loss by the accumulation steps (and average it over processes) for models that "
        "ignore num_items_in_batch, huggingface/transformers#47688; with --adv none as well.",
        False,
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> "AdversarialArguments":
        """An instance of a class that has its decorator, which makes its `__init__`."""
        fields(cls)
        return cast(AdversarialArguments, super().__new__(cls))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__dataclass_fields__ = cast(Any, _FieldsOnDemand())
        order = cls.__mro__
        for base in order[: order.index(AdversarialArguments)]:
            ours = issubclass(base, AdversarialArguments)
            if issubclass(base, TrainingArguments) and not ours:  # its checks would replace ours
                raise UserError(
                    f"{cls.__name__} must name AdversarialArguments before {base.__name__}."
                )

    def __post_init__(self) -> None:
        super().__post_init__()
        module_site(self)
        self.adversarial_schedule()

    def adversarial_schedule(self, modality: Modality = "text") -> Schedule:
        """The method and its schedule, as the flags stand now.

        Args:
            modality: "image" takes the presets for pixels.

        Raises:
            UserError: see the class.
        """
        shared = {key: getattr(self, f"adv_{key}") for key in _SHARED_FLAGS}
        own = {key.removeprefix("adv_"): getattr(self, key) for key in _METHOD_FLAGS}
        try:
            method = build(self.adv, modality=modality, **shared, **own)
            check_attacks(method)
            if self.adv_exclude_special_tokens and self.adv != "none":
                _check_moves_tokens(method)
            return schedule_of(method, self)
        except ValueError as error:
            raise UserError(f"--adv {self.adv}: {error}") from error


def _check_moves_tokens(method: Method) -> None:
    if not hasattr(method, "ball"):
        raise ValueError("it moves no token's embedding, so no token can be left out.")


@dataclass
class AdversarialTrainingArguments(AdversarialArguments, TrainingArguments):
    """`TrainingArguments` with the adversarial flags."""
