"""What the examples of each page find: tiny models, data, and names that a reader would have."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    HfArgumentParser,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainingArguments,
    ViTImageProcessor,
)

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from nlp_adv.attacks.words.candidates import CandidateTable
from nlp_adv.data.image_demo import small_resnet
from nlp_adv.data.text_demo import demo_tokenizer
from nlp_adv.robustness.matched import Outcome

World = dict[str, Any]
TEXTS = [
    {"text": f"the {noun} is {word}", "label": label}
    for noun in ("plot", "cast", "score", "end")
    for label, words in enumerate((("dull", "grey"), ("superb", "bright")))
    for word in words
]
WORDS = sorted({word for row in TEXTS for word in str(row["text"]).split()})


@cache
def _tokenizer() -> Any:
    return demo_tokenizer([str(row["text"]) for row in TEXTS])


def classifier(classes: int = 2) -> BertForSequenceClassification:
    """A BERT of two blocks."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(_tokenizer()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=classes,
    )
    return BertForSequenceClassification(config)


def text() -> World:
    """A classifier, its tokenizer, rows raw and tokenized, batches, an optimizer."""
    tokenizer, model = _tokenizer(), classifier()
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    dataset = Dataset.from_list(TEXTS, features=features)
    rows = dataset.map(lambda row: tokenizer(row["text"]), remove_columns=["text"])
    collator = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(rows, batch_size=4, collate_fn=collator)
    return {
        "model": model,
        "text_model": model,
        "tokenizer": tokenizer,
        "dataset": dataset,
        "rows": rows,
        "collator": collator,
        "loader": list(loader)[:2],
        "batch": next(iter(loader)),
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "args": TrainingArguments(
            "runs/args", max_steps=2, report_to="none", use_cpu=True, save_strategy="no"
        ),
        "accelerator": Accelerator(cpu=True),  # last: arguments begin its state anew
    }


def script() -> World:
    """A script in which three lines change, and what stands around them."""

    @dataclass
    class ModelArguments:
        """None."""

    @dataclass
    class DataArguments:
        """None."""

    given = AdversarialTrainingArguments("runs/script", adv="freelb", report_to="none")
    names = {"ModelArguments": ModelArguments, "DataArguments": DataArguments}
    return text() | names | {"HfArgumentParser": HfArgumentParser, "training_args": given}


def attacked_words() -> World:
    """Rows as AttackedTexts takes them, and a table of neighbours."""
    world = text()
    others = {word: [other for other in WORDS if other != word] for word in WORDS}
    table = CandidateTable.from_mapping(others)
    args = AdversarialTrainingArguments(
        "runs/words", num_train_epochs=2, report_to="none", adv="none"
    )
    more = {"table": table, "AdversarialTrainer": AdversarialTrainer, "args": args}
    return world | {"rows": world["dataset"]} | more


def function() -> World:
    """A pipeline of scikit-learn, beside the classifier."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    pipeline.fit([row["text"] for row in TEXTS], [row["label"] for row in TEXTS])
    return text() | {"pipeline": pipeline}


def images() -> World:
    """A small ResNet, its processor, and pictures; beside a classifier of texts."""
    processor = ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = small_resnet(3, 3, 0)
    return text() | {"model": model, "processor": processor, "x": x, "y": torch.arange(4) % 3}


def pairs() -> World:
    """A language model, and pairs of completions in words of its tokenizer."""
    names = ["<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(40))]
    made = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(names),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    )
    rows = [{"prompt": f"w{i} w1", "chosen": "w2", "rejected": f"w3 w{i}"} for i in range(4)]
    useful = [{"prompt": f"w{i}", "completion": "w5 w6"} for i in range(3)]
    from nlp_adv.data.pairs import PairCollator, with_utility

    batch = PairCollator(tokenizer)(with_utility(rows, useful, each=1)[:4])
    return {
        "model": model,
        "tokenizer": tokenizer,
        "pairs": rows,
        "conversations": useful,
        "loader": [batch],
        "accelerator": Accelerator(cpu=True),
    }


def outcomes() -> World:
    """Which texts models have right, clean and under attack, over three seeds."""
    draw = numpy.random.default_rng(0)
    right = [(draw.random(40) < 0.9).astype(float) for _ in range(3)]
    robust = [one * (draw.random(40) < 0.5) for one in right]
    plain = [[Outcome(one, one * (draw.random(40) < 0.3))] for one in right]
    labels = draw.integers(0, 2, 40).tolist()
    return {
        "one_pair_a_seed": list(zip(right, robust, strict=True)),
        "curves": plain,
        "labels": labels,
    }


WORLDS: dict[str, Callable[[], World]] = {
    "README.md": script,
    "docs/start/your_script.md": script,
    "docs/start/images.md": images,
    "docs/start/chat.md": pairs,
    "docs/howto/compare.md": outcomes,
    "docs/howto/evaluate.md": function,
    "docs/howto/language_models.md": pairs,
    "docs/attacks/points.md": images,
    "docs/attacks/words.md": attacked_words,
}
"""Of the other pages it is `text`."""
