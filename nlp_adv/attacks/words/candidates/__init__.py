"""Where the words come from that an attack puts in place of others."""

from nlp_adv.attacks.words.candidates.base import Source
from nlp_adv.attacks.words.candidates.characters import DeepWordBugEdits, TextBuggerEdits
from nlp_adv.attacks.words.candidates.table import CandidateTable
from nlp_adv.attacks.words.candidates.wordnet import WordNet

__all__ = ["CandidateTable", "DeepWordBugEdits", "Source", "TextBuggerEdits", "WordNet"]
