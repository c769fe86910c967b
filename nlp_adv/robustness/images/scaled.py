"""The same classifier with its logits multiplied: no answer changes, only how sure it seems."""

from __future__ import annotations

from torch import Tensor, nn

from nlp_adv.sites.normalisation import Classifier, logits_of


class ScaledLogits(nn.Module):
    """f·z(x) in the place of z(x).

    Args:
        model: pixels → logits.
        factor: f > 0.
    """

    def __init__(self, model: Classifier, factor: float) -> None:
        super().__init__()
        self.model = model
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.factor * logits_of(self.model(x))
