"""Where δ enters a model: its word embeddings, the pixels, the output of any named module."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlp_adv.sites.embeddings import EmbeddingSite
    from nlp_adv.sites.layer import LayerSite
    from nlp_adv.sites.normalisation import Pixels, parse_epsilon
    from nlp_adv.sites.pixels import PixelSite
    from nlp_adv.sites.site import Entry, Site

__all__ = ["EmbeddingSite", "Entry", "LayerSite", "PixelSite", "Pixels", "Site", "parse_epsilon"]

_HOMES = {
    "EmbeddingSite": "nlp_adv.sites.embeddings",
    "Entry": "nlp_adv.sites.site",
    "LayerSite": "nlp_adv.sites.layer",
    "PixelSite": "nlp_adv.sites.pixels",
    "Pixels": "nlp_adv.sites.normalisation",
    "Site": "nlp_adv.sites.site",
    "parse_epsilon": "nlp_adv.sites.normalisation",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
