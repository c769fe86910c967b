"""Where δ enters a model: its word embeddings, the pixels."""

from nlp_adv.sites.normalisation import Pixels, parse_epsilon

__all__ = ["Pixels", "parse_epsilon"]
