"""Sites by name, as a command line gives them: `--adv_site layer:bert.encoder.layer.3`."""

from collections.abc import Callable

from nlp_adv.errors import UserError
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.modules import ModuleSite

_KINDS: dict[str, Callable[..., ModuleSite]] = {"embedding": EmbeddingSite, "layer": LayerSite}
_FORMS = (
    "write embedding, embedding:NAME, layer:NAME, layer:NUMBER, or several of them with commas, "
    "for example layer:bert.encoder.layer.3 or embedding,layer:3,layer:7 (and pixels for images)"
)


def parse_site(text: str) -> ModuleSite | None:
    """The site that a text names; None of "pixels", whose normalisation the text does not hold.

        embedding                        the word embeddings
        embedding:NAME                   the embedding module of this name
        layer:NAME                       the output of the module of this name
        layer:3                          the output of the model's fourth block
        embedding:A,embedding:B          both, one δ each

    Names are those of `model.named_modules()`; whether the model has them is seen when it is known.

    Raises:
        UserError: it names no site.
    """
    parts = [part.strip() for part in text.split(",")]
    if parts == ["pixels"]:
        return None
    sites = [_one(part, text) for part in parts]
    first, *others = sites
    for other in others:
        first = first + other
    return first


def _one(part: str, text: str) -> ModuleSite:
    kind, colon, name = part.partition(":")
    if kind not in _KINDS or (colon and not name) or (kind == "layer" and not name):
        raise UserError(f"{text!r} names no site: {_FORMS}.")
    return _KINDS[kind](name) if name else EmbeddingSite()
