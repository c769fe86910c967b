"""A self-contained demonstration task: synthetic reviews, their tokenizer and a small BERT.

Nothing here is downloaded and nothing here is real text. The sentences are composed from the
word lists and templates below, so a machine without a network can train a model from scratch in
seconds and still see what adversarial training does. The grammar is small but not a bag of words:

* a **negator** turns a clause over ("is far from dull" is positive), while a **keeper** contains a
  negative word and turns nothing over ("is never less than dull" is negative);
* in a **contrast** the main clause decides, whichever side it stands on ("although the plot is
  dull, the acting is superb" is positive);
* neutral **asides and settings** lengthen the sentence and say nothing;
* **held-out words** occur in the test split only. Each has a relative in the training split
  ("superbly" for "superb"), so a model can reach it through the word pieces that they share.
"""

import random
from collections.abc import Iterable

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerBase,
)

LABEL_NAMES = ("negative", "positive")
SPLIT_SIZES = {"train": 6000, "validation": 500, "test": 800}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Every adjective forms its adverb with a plain "ly".
NEGATIVE_ADJECTIVES = (
    "dreadful joyless graceless tedious boring thoughtless "
    "lifeless tasteless awkward sluggish witless charmless"
)
POSITIVE_ADJECTIVES = (
    "delightful joyful graceful superb engaging thoughtful "
    "splendid tasteful brilliant elegant charming masterful"
)
ADJECTIVES = {
    "negative": tuple(NEGATIVE_ADJECTIVES.split()),
    "positive": tuple(POSITIVE_ADJECTIVES.split()),
}
PARTICIPLES = ("handled", "done", "judged", "made")
HELD_OUT_SHARE = 0.3  # of the opinion words in the test split

NOUNS = ("acting", "plot", "script", "music", "camerawork", "dialogue", "ending", "pacing")
OTHER_SUBJECTS = ("this film", "the whole thing", "the second half", "her new picture")
SUBJECTS = (*(f"the {noun}" for noun in NOUNS), *OTHER_SUBJECTS)
NEGATORS = ("not", "hardly", "never", "far from")
KEEPERS = ("never less than", "nothing short of")
DEGREES = ("very", "truly", "utterly", "rather", "fairly", "somewhat")
CONTRASTS = (
    "although {minor}, {main}",
    "even if {minor}, {main}",
    "{minor}, but {main}",
    "{main}, although {minor}",
)
AGREEMENTS = ("{main}, and {minor}", "{main} because {minor}")
SETTINGS = (
    "seen on a rainy tuesday, ",
    "at just over two hours, ",
    "for the record, ",
    "in the version shown here, ",
)
ASIDES = (
    ", shot in black and white,",
    ", as the poster says,",
    ", like most of the cast,",
    ", for those who ask,",
)


def _words(label: str, held_out: bool) -> list[str]:
    """Return the opinion words of one class: those of every split, or the held-out ones.

    Of each two adjectives in a row, the first keeps its adverb for the test split.
    """
    adverbs = [f"{adjective}ly" for adjective in ADJECTIVES[label]]
    return adverbs[::2] if held_out else [*ADJECTIVES[label], *adverbs[1::2]]


def held_out_words() -> frozenset[str]:
    """Return the opinion words that occur in the test split only."""
    return frozenset(word for label in LABEL_NAMES for word in _words(label, held_out=True))


def _clause(rng: random.Random, label: str, held_out_share: float) -> str:
    """Compose one clause that says `label` of its subject."""
    kind = rng.choices(("bare", "degree", "negator", "keeper"), weights=(4, 3, 3, 1))[0]
    modifiers = {"bare": ("",), "degree": DEGREES, "negator": NEGATORS, "keeper": KEEPERS}
    modifier = rng.choice(modifiers[kind])
    spoken = label if kind != "negator" else _opposite(label)
    word = rng.choice(_words(spoken, held_out=rng.random() < held_out_share))
    quality = f"{word} {rng.choice(PARTICIPLES)}" if word.endswith("ly") else word
    aside = rng.choice(ASIDES) if rng.random() < 0.1 else ""
    return " ".join(f"{rng.choice(SUBJECTS)}{aside} is {modifier} {quality}".split())


def _opposite(label: str) -> str:
    return LABEL_NAMES[1 - LABEL_NAMES.index(label)]


def _sentence(rng: random.Random, label: str, held_out_share: float) -> str:
    """Compose one sentence: a clause alone, two that contrast, or two that agree."""
    main = _clause(rng, label, held_out_share)
    kind = rng.choices(("alone", "contrast", "agreement"), weights=(5, 3, 1))[0]
    if kind != "alone":
        minor_label = _opposite(label) if kind == "contrast" else label
        template = rng.choice(CONTRASTS if kind == "contrast" else AGREEMENTS)
        main = template.format(main=main, minor=_clause(rng, minor_label, held_out_share))
    setting = rng.choice(SETTINGS) if rng.random() < 0.2 else ""
    return f"{setting}{main}."


def demo_dataset(seed: int = 0) -> DatasetDict:
    """Generate the synthetic train, validation and test splits.

    The classes are balanced, no sentence occurs twice, in one split or in two, and the same seed
    gives the same sentences. The columns are `text` and `label` (negative, positive).
    """
    rng = random.Random(seed)
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABEL_NAMES))})
    seen: set[str] = set()
    splits = {}
    for split, size in SPLIT_SIZES.items():
        rows: dict[str, list[str | int]] = {"text": [], "label": []}
        while len(rows["text"]) < size:
            # Alternating over the accepted rows keeps the classes balanced despite duplicates.
            label = len(rows["text"]) % 2
            share = HELD_OUT_SHARE if split == "test" else 0.0
            text = _sentence(rng, LABEL_NAMES[label], share)
            if text not in seen:
                seen.add(text)
                rows["text"].append(text)
                rows["label"].append(label)
        splits[split] = Dataset.from_dict(rows, features=features)
    return DatasetDict(splits)


def demo_tokenizer(texts: Iterable[str], vocab_size: int = 300) -> PreTrainedTokenizerBase:
    """Learn a lower-case WordPiece vocabulary from `texts` and wrap it as a BERT tokenizer.

    The vocabulary is small on purpose: rare words fall into pieces, and the held-out words of the
    test split are made of the same pieces.
    """
    words = [text.lower() for text in texts]
    # The learner numbers the "##x" characters in hash order and breaks ties between merges by
    # number, so without a fixed numbering the same texts give another vocabulary on every call.
    characters = sorted(set("".join(words)) - {" "})
    numbered = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=numbered, show_progress=False
    )
    learner.train_from_iterator(words, trainer)
    tokenizer: PreTrainedTokenizerBase = BertTokenizer(
        vocab=learner.get_vocab(), model_max_length=64
    )
    return tokenizer


def demo_model(
    tokenizer: PreTrainedTokenizerBase, num_labels: int = 2, seed: int = 0
) -> BertForSequenceClassification:
    """Build a small, randomly initialised BERT classifier for `tokenizer`.

    The weights depend on `seed` alone, and torch's global random state is left as it was.
    """
    names = LABEL_NAMES if num_labels == 2 else tuple(f"LABEL_{i}" for i in range(num_labels))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.05,  # BERT's 0.02 learns too slowly at this width
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would reseed GPUs too
        return BertForSequenceClassification(config)
