"""Tokenizers of four kinds, tiny float64 victims, and engines that attack them."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from nlp_adv.attacks.words.constraints import Constraints
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Attack, Engine, Text
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.result import WordResult
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Words
from nlp_adv.data.text_demo import demo_tokenizer

SENTENCES = (
    "The acting is superb, and the plot is never dull.",
    "although her new picture looks charming, it is a tedious, joyless affair",
    "This film isn't brilliant (far from it): the script drags on and on!",
    "a delightful ending; the music alone is worth seeing",
    "Who would call such a well-made thing boring?",
    "the camerawork is awkward and the dialogue sluggish",
    "An elegant picture - thoughtful, graceful and engaging.",
    "not dull, not boring, hardly tasteless: it is masterful",
    "Its second half is dreadful.",
    "seen on a rainy tuesday, the whole thing charms",
)
# Byte-level vocabularies of real text hold " ." and " ," as one token.
TAUGHT = (*SENTENCES, *(re.sub(r"([.,:;!?])", r" \1", sentence) for sentence in SENTENCES))
WORDS = sorted({word for sentence in SENTENCES for word in Words.of(sentence).words})
FREE = Protocol(name="free", candidates=8)  # no limit but the candidates

KINDS = ("wordpiece", "roberta", "gpt2", "unigram")


@functools.cache
def tokenizer_of(kind: str, vocab: int = 200):
    """A tokenizer in the manner of BERT, RoBERTa, GPT-2 (padding on the left) or T5."""
    if kind == "wordpiece":
        return demo_tokenizer(TAUGHT, vocab_size=vocab)
    if kind == "unigram":
        special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
        learner = Tokenizer(models.Unigram())
        learner.pre_tokenizer = pre_tokenizers.Metaspace()
        learner.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab,
            special_tokens=list(special.values()),
            unk_token="<unk>",
            show_progress=False,
        )
        template = "$A </s>", "$A </s> $B </s>"
    else:
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learner.decoder = decoders.ByteLevel()
        special = {name: "<|end|>" for name in ("unk_token", "eos_token", "pad_token")}
        if kind == "roberta":
            special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
            special |= {"pad_token": "<pad>", "mask_token": "<mask>"}
        trainer = trainers.BpeTrainer(
            vocab_size=256 + vocab,
            special_tokens=sorted(set(special.values())),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        template = ("<s> $A </s>", "<s> $A </s> </s> $B </s>") if kind == "roberta" else None
    learner.train_from_iterator(TAUGHT, trainer)
    if template is not None:
        names = {name for part in template for name in part.split() if name[0] == "<"}
        ids = [(name, learner.token_to_id(name)) for name in sorted(names)]
        learner.post_processor = processors.TemplateProcessing(
            single=template[0], pair=template[1], special_tokens=ids
        )
    if "mask_token" in special:
        special["mask_token"] = AddedToken("<mask>", lstrip=True, special=True)
    side = "left" if kind == "gpt2" else "right"
    return hf.PreTrainedTokenizerFast(tokenizer_object=learner, padding_side=side, **special)


def spread(model: nn.Module, seed: int, std: float) -> nn.Module:
    """Random weights large enough that every word counts; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(std * noise)
    return model


@functools.cache
def bert(seed: int = 0, classes: int = 3, layers: int = 1) -> nn.Module:
    """A tiny BERT classifier for the WordPiece tokenizer. Shared: do not change it."""
    tokenizer = tokenizer_of("wordpiece")
    config = hf.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=classes,
    )
    with torch.random.fork_rng(devices=[]):
        return spread(hf.BertForSequenceClassification(config), seed, 0.5)


class BagOfTokens(nn.Module):
    """z = W·mean(E_x) + b, or with a tanh around the mean; pad tokens are not counted."""

    def __init__(self, vocab: int, *, classes: int = 3, width: int = 8, linear: bool = True):
        super().__init__()
        self.table = nn.Embedding(vocab, width)
        self.head = nn.Linear(width, classes)
        self.linear = linear
        spread(self, 0, 1.0)
        # Sums of such numbers are exact in any order, which differs from processor to processor:
        # texts of the same words tie.
        self.table.weight.data.mul_(2**20).round_().div_(2**20)
        self.head.bias.data.copy_(torch.linspace(-0.2, 0.2, classes))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def pooled(self, vectors: Tensor, mask: Tensor) -> Tensor:
        mean = (vectors * mask).sum(1) / mask.sum(1)
        return mean if self.linear else mean.tanh()

    def logits(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """From (B, T, D) and (B, T)."""
        return self.head(self.pooled(vectors, mask[..., None]))

    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None):
        logits = self.logits(self.table(input_ids), attention_mask)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits, "loss": loss}


class InOrder(BagOfTokens):
    """z = W·tanh(2·mean(tanh(E_t + E_{t−1} ⊙ a))) + b: cheap, and the order of the words counts."""

    def __init__(self, vocab: int, *, classes: int = 3, seed: int = 0):
        super().__init__(vocab, classes=classes, width=16)
        self.before = nn.Parameter(torch.linspace(-1, 1, 16, dtype=torch.float64))
        spread(self, seed, 1.0)
        self.head.bias.data.copy_(torch.linspace(-0.6, 0.6, classes))

    def pooled(self, vectors: Tensor, mask: Tensor) -> Tensor:
        vectors = vectors * mask
        before = nn.functional.pad(vectors[:, :-1], (0, 0, 1, 0))
        states = (vectors + before * self.before).tanh() * mask
        return (2 * states.sum(1) / mask.sum(1)).tanh()


@functools.cache
def light(seed: int = 3) -> nn.Module:
    """The victim of most tests, for the WordPiece tokenizer. Shared: do not change it."""
    return InOrder(len(tokenizer_of("wordpiece")), seed=seed)


class Scaled(nn.Module):
    """A model whose logits are multiplied."""

    def __init__(self, model: nn.Module, factor: float):
        super().__init__()
        self.model, self.factor = model, factor

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def forward(self, **batch):
        outputs = dict(self.model(**batch))
        return {**outputs, "logits": self.factor * outputs["logits"]}


def engine_of(
    model: nn.Module | None = None,
    protocol: Protocol = FREE,
    *,
    kind: str = "wordpiece",
    max_length: int = 40,
    tokens_per_batch: int = 4096,
    tagger: Callable[[list[str]], list[str]] | None = None,
    **options,
) -> Engine:
    """An engine on a tiny victim."""
    tokenizer = tokenizer_of(kind)
    victim = Victim(light() if model is None else model, tokenizer, tokens_per_batch)
    splicer = Splicer(tokenizer, max_length, protocol.part)
    return Engine(victim, splicer, Constraints(protocol, tagger), **options)


def right_texts(model: nn.Module | None = None, texts: Sequence[str] = SENTENCES) -> list[Text]:
    """Texts with the labels that the model gives them, so that none is skipped."""
    engine = engine_of(model)
    rows = engine.splicer.whole([(text, None) for text in texts])
    labels = engine.victim.logits(rows).argmax(1).tolist()
    return [Text(n, text, label) for n, (text, label) in enumerate(zip(texts, labels, strict=True))]


def attacked(engine: Engine, attack: Attack, texts: Sequence[Text]) -> list[WordResult]:
    """The records by id."""
    return sorted(engine.run(attack, texts), key=lambda record: record.id)


def without_confidence(records: Sequence[WordResult]) -> list[WordResult]:
    """What must not change with the scale of the logits."""
    return [replace(record, confidence=0.0, adversarial_confidence=0.0) for record in records]
