"""Where the words come from that an attack puts in place of others."""

from nlp_adv.robustness.substitution.candidates.base import Source
from nlp_adv.robustness.substitution.candidates.characters import DeepWordBugEdits, TextBuggerEdits
from nlp_adv.robustness.substitution.candidates.table import CandidateTable
from nlp_adv.robustness.substitution.candidates.wordnet import WordNet

__all__ = ["CandidateTable", "DeepWordBugEdits", "Source", "TextBuggerEdits", "WordNet"]
