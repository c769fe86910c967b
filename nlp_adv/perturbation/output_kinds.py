"""What a model's logits hold, and in which dimension: classes, labels or scores."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from nlp_adv.perturbation.divergences import Outputs, class_dimension
from nlp_adv.perturbation.running import answers_with_spans, unwrapped


class Kind(NamedTuple):
    """What the logits hold, and the dimension that holds one number for each class."""

    outputs: Outputs
    dim: int


def kind_of(model: nn.Module, logits: Tensor, labels: Any, *, tokens: int | None = None) -> Kind:
    """What a Hugging Face model's own loss takes its logits for.

    `config.problem_type` decides. Where it is unset, as in `transformers`: one score is regression,
    floating-point labels, one for each logit, are yes-or-no labels, and all else are classes. (On a
    grid of pixels one channel is a yes-or-no label: there are no scores of pixels.)

    The dimension is the one that integer labels lack. Where labels do not tell, it is the one of
    `config.num_labels`; else the second of four and more dimensions, as images have it, and the
    last of fewer.

    Args:
        model: wrapped or not.
        logits: (B, C), (B, T, C), (B, C, T), (B, C, H, W) …
        labels: the batch's; anything but a tensor is none.
        tokens: T, of a model of text.
    """
    model = unwrapped(model)
    config = getattr(model, "config", None)
    given = labels if isinstance(labels, Tensor) else None
    dim = _dimension(model, getattr(config, "num_labels", None), logits, given, tokens)
    problem = getattr(config, "problem_type", None)
    named: dict[Any, Outputs] = {
        "single_label_classification": "classes",
        "multi_label_classification": "labels",
        "regression": "scores",
    }
    if problem in named:
        return Kind(named[problem], dim)
    if logits.shape[dim] == 1:
        return Kind("scores" if logits.ndim < 4 else "labels", dim)
    if given is not None and given.shape == logits.shape:
        return Kind("labels", dim)
    return Kind("classes", dim)


def _dimension(
    model: nn.Module, classes: Any, logits: Tensor, labels: Tensor | None, tokens: int | None
) -> int:
    usual = class_dimension(logits)
    if logits.ndim == 2:
        return usual
    last = logits.ndim - 1
    if labels is not None and not labels.is_floating_point():
        of_second = labels.shape == logits.shape[:1] + logits.shape[2:]
        of_last = labels.shape == logits.shape[:-1]
        if of_second != of_last:
            return 1 if of_second else last
    # Start and end of an answer are two distributions over the tokens, not two classes; the last
    # dimension of a language model is its words.
    if logits.ndim == 3 and (answers_with_spans(model) or logits.shape[2] != tokens):
        return usual
    of_second, of_last = logits.shape[1] == classes, logits.shape[last] == classes
    if of_second != of_last:
        return 1 if of_second else last
    return usual
