"""Texts that are longer than what the model reads: places, limits, queries, and what is said."""

import itertools
from dataclasses import replace

import pytest
import transformers as hf
from toy_attacks import ATTACKS, attack_named, neighbours, oracles
from toy_victims import (
    FREE,
    SENTENCES,
    attacked,
    engine_of,
    light,
    right_texts,
    tokenizer_of,
)

from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Text
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.words import Words
from nlp_adv.robustness import Resources, evaluate_robustness

LENGTH = 40  # tokens that the victim of `engine_of` reads
LONG = [" ".join([*SENTENCES[n:], *SENTENCES]) for n in range(4)]


def places_read(text: str, tokenizer=None, max_length: int = LENGTH) -> list[int]:
    """The words that have a token, from the characters that the tokenizer says they came from."""
    tokenizer = tokenizer or tokenizer_of("wordpiece")
    encoded = tokenizer(text, truncation=True, max_length=max_length)
    words, places, end = Words.of(text), [], 0
    for place, (gap, word) in enumerate(zip(words.gaps, words.words, strict=False)):
        start, end = end + len(gap), end + len(gap) + len(word)
        if any(encoded.char_to_token(character) is not None for character in range(start, end)):
            places.append(place)
    return places


@pytest.mark.fault("E3")
@pytest.mark.parametrize("name", ATTACKS)
def test_only_what_the_model_reads_is_attacked_and_counted(name):
    protocol = replace(FREE, candidates=4, stop_words="none", max_changed=0.25)
    texts = right_texts(texts=LONG)
    changed = 0
    for record in attacked(
        engine_of(protocol=protocol, oracles=oracles()), attack_named(name), texts
    ):
        read = len(places_read(record.original))
        assert len(Words.of(record.original)) > 3 * read
        assert record.words == read
        assert record.queries == record.forwards
        assert record.words_changed <= round(0.25 * read)
        # The text behind the words that were read is as it was.
        behind = Words.of(record.original).only(range(read)).gaps[-1]
        assert record.adversarial.endswith(behind)
        changed += record.words_changed
    assert changed >= 4 or name == "input-reduction"  # a text that is cut cannot be made shorter


@pytest.mark.fault("E3")
def test_limits_are_of_what_is_read():
    (text,) = right_texts(texts=LONG[:1])
    read = len(places_read(text.text))
    attack = attack_named("deletion")
    (record,) = attacked(engine_of(protocol=replace(FREE, min_words=read + 1)), attack, [text])
    assert (record.outcome, record.queries) == ("robust", 1)
    per_word = Protocol(name="x", queries_per_word=1, stop_words="none")
    (record,) = attacked(engine_of(protocol=per_word), attack, [text])
    assert record.queries <= read


@pytest.mark.fault("E3")
@pytest.mark.parametrize("kind", ["wordpiece", "roberta", "gpt2", "unigram"])
def test_what_comes_behind_the_cut_changes_nothing(kind):
    """The same record for two texts that begin alike."""
    tokenizer = tokenizer_of(kind)
    engine = engine_of(kind=kind, model=_model_for(tokenizer), protocol=replace(FREE, candidates=3))
    beginning = " ".join(SENTENCES[:4])
    texts = [f"{beginning} {other}" for other in (SENTENCES[4], " ".join(SENTENCES[5:]) * 3)]
    rows = engine.splicer.whole([(text, None) for text in texts])
    assert rows[0] == rows[1]
    label = int(engine.victim.logits(rows)[0].argmax())
    records = [
        attacked(engine, attack_named("textfooler"), [Text(0, text, label)])[0] for text in texts
    ]
    facts = [(r.outcome, r.queries, r.words, r.words_changed, r.forwards) for r in records]
    assert facts[0] == facts[1]
    assert records[0].words_changed > 0
    changed = [
        r.adversarial.removesuffix(t[len(beginning) :]) for r, t in zip(records, texts, strict=True)
    ]
    assert changed[0] == changed[1]


def _model_for(tokenizer):
    from toy_victims import InOrder

    return InOrder(len(tokenizer), seed=3)


@pytest.mark.fault("E3")
def test_words_that_longer_words_push_out_are_read_no_more():
    """Of a text that just fits, the end leaves the model when misspelt words become pieces."""
    splicer = engine_of().splicer
    texts = [" ".join(pair) for pair in itertools.permutations(SENTENCES, 2)]
    lengths = [len(tokenizer_of("wordpiece")(text)["input_ids"]) for text in texts]
    fits = [text for text, length in zip(texts, lengths, strict=True) if 37 <= length <= LENGTH]
    pushed = 0
    for text in fits[:8]:
        words = Words.of(text)
        (template,) = splicer.templates([(words, None)])
        assert all(template.reads(words, place) for place in range(len(words)))
        longer = words.replaced({place: words.words[place] * 2 for place in (1, 3, 4)})
        read = [place for place in range(len(words)) if template.reads(longer, place)]
        assert read == places_read(longer.text)
        pushed += len(words) - len(read)
    assert pushed > 8


class SlowTokenizer(hf.PreTrainedTokenizer):
    """Words at spaces, in Python: it does not know which characters a token came from."""

    def __init__(self, **options):
        words = sorted({word for sentence in SENTENCES for word in sentence.split()})
        self.known = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *words])}
        super().__init__(pad_token="[PAD]", unk_token="[UNK]", **options)

    @property
    def vocab_size(self) -> int:
        return len(self.known)

    def get_vocab(self):
        return dict(self.known)

    def _tokenize(self, text, **options):
        return text.split()

    def _convert_token_to_id(self, token):
        return self.known.get(token, 1)

    def _convert_id_to_token(self, index):
        return list(self.known)[index]


@pytest.mark.fault("E3")
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("most", [1, 7, 23])
def test_a_tokenizer_in_python(side, most):
    """Words are halved until the ids are those of the whole text."""
    splicer = Splicer(SlowTokenizer(truncation_side=side), most)
    text = " ".join(SENTENCES)
    words = Words.of(text)
    tokens = text.split()
    kept = " ".join(tokens[:most] if side == "right" else tokens[-most:])
    count = len(Words.of(kept))
    expected = range(count) if side == "right" else range(len(words) - count, len(words))
    assert splicer.read(words, None) == expected
    assert splicer.cut([(text, None), (kept, None)]) == [True, False]


@pytest.mark.fault("E3")
def test_truncation_from_the_left():
    tokenizer = tokenizer_of("wordpiece", vocab=190)  # no other test's
    tokenizer.truncation_side = "left"
    for text in LONG:
        (template,) = Splicer(tokenizer, LENGTH).templates([(Words.of(text), None)])
        read = places_read(text, tokenizer)
        assert read[-1] == len(Words.of(text)) - 1
        assert template.words.words == Words.of(text).words[read[0] :]
        assert template.words.text == text


@pytest.mark.fault("E3")
def test_the_result_says_how_many_texts_were_cut():
    rows = [{"text": text, "label": n % 3} for n, text in enumerate([*LONG, *SENTENCES])]
    long = sum(len(tokenizer_of("wordpiece")(row["text"])["input_ids"]) > 20 for row in rows)
    assert 4 < long < len(rows)
    found = evaluate_robustness(
        light(),
        tokenizer_of("wordpiece"),
        rows,
        ["textfooler"],
        resources=Resources(neighbours=neighbours()),
        max_length=20,
        progress=False,
    )
    assert sum(f"{long} of {len(rows)} texts are longer than the 20" in n for n in found.notes) == 1
    short = evaluate_robustness(
        light(), tokenizer_of("wordpiece"), rows[-2:], max_length=40, progress=False
    )
    assert not any("longer" in note for note in short.notes)
