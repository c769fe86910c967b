"""Stop words: those that an attack leaves as they are because they carry a sentence's grammar.

A list that is too long protects the model: where "sincere" and "well" are on it, the words that
decide cannot be touched. One without negations lets an attack turn "it isn't good" into its
opposite and count that as an error of the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError

# The closed classes of English and nothing else: no noun, no adjective, no adverb of manner, and
# of the verbs only auxiliaries and modals.
_FUNCTION_WORDS = """
a an the this that these those such same own some any each every either both all another other
others one ones few many much more most several enough less least
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself
it its itself we us our ours ourselves they them their theirs themselves oneself
somebody someone something somewhere anybody anyone anything anywhere everybody everyone everything
everywhere
who whom whose which what whoever whomever whichever whatever
about above across after against along alongside amid among amongst around as at before behind
below beneath beside besides between beyond by despite down during except for from in inside into
of off on onto out outside over per since than through throughout till to toward towards under
underneath until unto up upon versus via with within
and but or if because although though unless while whereas whether lest so yet once
am is are was were be been being do does did doing done has have had having
can could may might must shall should will would ought
how when where why whenever wherever here there then thus therefore hence however
too very also just only even again ever
"""
_NEGATIONS = """
not no nor never neither none nobody noone nothing nowhere cannot hardly scarcely barely n't nt
can't won't shan't ain't aren't couldn't daren't didn't doesn't don't hadn't hasn't haven't isn't
mayn't mightn't mustn't needn't oughtn't shouldn't wasn't weren't wouldn't
"""
_CONTRACTIONS = """
i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll it'd
we're we've we'll we'd they're they've they'll they'd that's that'll that'd this'll these're
there's there'll there'd here's who's who'll who'd who've what's what'll what're where's when's
why's how's let's could've would've should've might've must've
"""
_ENDINGS = "s t d m ll re ve"  # of contractions that a tokenizer has cut: it 's, they 'll
_TYPED = {word.replace("'", "") for word in _NEGATIONS.split()} - {"wont"}  # dont, cant, isnt

ENGLISH_STOP_WORDS = _TYPED.union(
    *(part.split() for part in (_FUNCTION_WORDS, _NEGATIONS, _CONTRACTIONS, _ENDINGS))
)
STOP_LISTS = ("english", "scikit-learn", "none")

StopWords = bool | str | Sequence[str]  # a name, a file, or the words themselves


def settled(setting: StopWords | Path) -> str | tuple[str, ...]:
    """A setting as a protocol keeps and hashes it: a name, or the words of a list or a file.

    Args:
        setting: a name of `STOP_LISTS`; words; a file with a word a line, or a JSON list of them;
            or, as protocols were written at first, whether stop words may be touched.

    Raises:
        UserError: there is no such list and no such file, or it holds no words.
    """
    if isinstance(setting, bool):
        return "none" if setting else "english"
    if isinstance(setting, str) and setting in STOP_LISTS:
        return setting
    words = read_words(Path(setting), "stop list") if isinstance(setting, str | Path) else setting
    if not isinstance(words, Iterable) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f"stop_words is {setting!r:.60}; give a list of words, a file with a word a line, or "
            f"one of {', '.join(STOP_LISTS)}."
        )
    return tuple(sorted({plain(word.strip()) for word in words} - {""})) or "none"


def words_of(setting: str | tuple[str, ...]) -> frozenset[str]:
    """The words of a settled setting, in lower case."""
    if setting == "scikit-learn":  # of this package's first numbers; it takes a second to import
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS as of_scikit_learn

        return frozenset(of_scikit_learn)
    if isinstance(setting, str):
        return frozenset(ENGLISH_STOP_WORDS if setting == "english" else ())
    return frozenset(setting)


def is_stop_word(words: Words, place: int, stops: frozenset[str]) -> bool:
    """Whether a word is one, by itself or together with the rest of a cut contraction behind it.

    "won" is none in "they won"; in "wo n't", "won 't" and "won ' t" it is a part of one.
    """
    word = plain(words.words[place])
    return word in stops or word + _ending(words, place) in stops


def _ending(words: Words, place: int) -> str:
    """What a tokenizer has cut off the contraction that begins at a place; "" of a whole word."""
    if place + 1 == len(words):
        return ""
    between, after = plain(words.gaps[place + 1]).strip(), plain(words.words[place + 1])
    if after == "n't" and not between:
        return after
    return f"'{after}" if between == "'" and after in _ENDINGS.split() else ""


def plain(word: str) -> str:
    """In lower case, with one kind of apostrophe."""
    for apostrophe in "’‘＇`ʼ":
        word = word.replace(apostrophe, "'")
    return word.lower()


def read_words(path: Path, what: str) -> object:
    """The lines of a file, or what its JSON holds.

    Raises:
        UserError: it cannot be read; a stop list may also be one of `STOP_LISTS`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        named = f"it is none of {', '.join(STOP_LISTS)}, and no" if what == "stop list" else "no"
        raise UserError(
            f"There is no {what} {str(path)!r}: {named} file that can be read "
            f"({getattr(error, 'strerror', None) or error})."
        ) from error
