"""Scripts of the shapes of transformers' examples: what they import, subclass and call; tiny."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as hf
from models import VOCAB, tiny
from torch import Tensor, nn
from training.tiny_training import rows

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


class Shape(NamedTuple):
    """One script.

    Attributes:
        trainer: how it says Trainer.
        before: what it does first.
        arguments: its class of TrainingArguments.
        more: how it calls the Trainer.
        flags: its own.
    """

    trainer: str
    before: str
    arguments: str = "TrainingArguments"
    more: str = ""
    flags: tuple[str, ...] = ()


PLAIN = "from transformers import Trainer, TrainingArguments"
QUESTIONS = """
from transformers import Trainer, TrainingArguments
class QuestionAnsweringTrainer(Trainer):
    def __init__(self, *args, eval_examples=None, post_process_function=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_examples = eval_examples
        self.post_process_function = post_process_function
    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None):
        return {}
"""
NOISED = """
from transformers import TrainingArguments
import transformers.trainer as module
class Noised(module.Trainer):
    method = "of the script"
    def training_step(self, model, inputs, *rest):
        inputs["input_ids"] = inputs["input_ids"].flip(1)
        return super().training_step(model, inputs, *rest)
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        inputs["labels"] = 1 - inputs["labels"]
        return super().compute_loss(model, inputs, return_outputs, **kwargs)
assert Noised.method == "of the script"
"""
SHAPES = {
    "glue": Shape("Trainer", PLAIN),
    "ner": Shape(
        "transformers.Trainer", "import transformers\nfrom transformers import TrainingArguments"
    ),
    "qa": Shape("QuestionAnsweringTrainer", QUESTIONS, more=", post_process_function=print"),
    "swag": Shape("Trainer", PLAIN),
    "clm": Shape("Trainer", PLAIN, flags=("--gradient_accumulation_steps", "2")),
    "mlm": Shape("Trainer", PLAIN, more=", data_collator=parts.masked"),
    "summarization": Shape(
        "Seq2SeqTrainer",
        "from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments",
        "Seq2SeqTrainingArguments",
    ),
    "image classification": Shape("Trainer", PLAIN, more=", processing_class=parts.PROCESSOR"),
    "a subclass that overrides": Shape("Noised", NOISED),
    "sft": Shape(
        "SFTTrainer",
        "from trl import SFTConfig, SFTTrainer",
        "SFTConfig",
        more=", processing_class=parts.words()",
    ),
}
TEMPLATE = """
import sys
from transformers import HfArgumentParser
{before}
import shapes as parts
assert HfArgumentParser  # as it was
def main():
    (args,) = HfArgumentParser(({arguments},)).parse_args_into_dataclasses()
    trainer = {trainer}(
        model=parts.model("{name}"), args=args, train_dataset=parts.data("{name}"){more}
    )
    assert type(args) is {arguments}
    trainer.train()
    return trainer
if __name__ == "__main__":
    trainer = main()
"""


def script(name: str) -> str:
    """Its text."""
    shape = SHAPES[name]
    return TEMPLATE.format(name=name, **shape._asdict())


def by_hand(text: str) -> str:
    """The same with the mixins written in."""
    text = re.sub(
        r"trainer = ([\w.]+)\((?=\n)",
        r"class Adversarial(AdversarialMixin, \1): pass\n    trainer = Adversarial(",
        text,
    )
    (arguments,) = re.findall(r"HfArgumentParser\(\((\w+),\)\)", text)
    text = text.replace(f"(({arguments},))", "((Arguments,))")
    text = text.replace(f"type(args) is {arguments}", "type(args) is Arguments")
    own = "from nlp_adv import AdversarialArguments, AdversarialMixin\n"
    own += f"class Arguments(AdversarialArguments, {arguments}): pass\n"
    return text.replace("import shapes as parts\n", f"import shapes as parts\n{own}")


def model(name: str) -> nn.Module:
    """A fresh one, the same each time, with dropout where the models have it."""
    if name == "sft":
        from training.tiny_trl import tiny as tiny_language_model

        return tiny_language_model("CausalLM")
    known = {"swag": "bert_choice", "clm": "gpt2_lm", "summarization": "t5", "ner": "t5_token"}
    if name in ("glue", "a subclass that overrides", *known):
        return tiny(known.get(name, "bert"), dropout=0.1)
    torch.manual_seed(0)
    bert = hf.BertConfig(vocab_size=VOCAB, initializer_range=0.3, **SMALL)
    vit = hf.ViTConfig(image_size=8, patch_size=4, num_labels=2, initializer_range=0.3, **SMALL)
    builders: dict[str, Callable[[], nn.Module]] = {
        "qa": lambda: hf.BertForQuestionAnswering(bert),
        "mlm": lambda: hf.BertForMaskedLM(bert),
        "image classification": lambda: hf.ViTForImageClassification(vit),
    }
    return builders[name]().double()


PROCESSOR = hf.ViTImageProcessorPil(size={"height": 8, "width": 8})


def words() -> Any:
    """A tokenizer for trl."""
    from training.tiny_trl import tokenizer

    return tokenizer()


def data(name: str) -> Any:
    """Rows that suit the model."""
    if name == "sft":
        from training.tiny_trl import texts

        return texts("text")
    if name == "image classification":
        torch.manual_seed(1)
        pixels = 2 * torch.rand(16, 3, 8, 8, dtype=torch.float64) - 1
        return [{"pixel_values": x, "labels": torch.tensor(i % 2)} for i, x in enumerate(pixels)]
    sentences = rows(16, language=name in ("clm", "mlm", "summarization"))
    if name == "ner":
        return [row | {"labels": row["input_ids"] % 2} for row in sentences]
    if name == "swag":
        pairs = [{k: torch.stack([v, v.flip(0)]) for k, v in row.items()} for row in sentences]
        return [
            pair | {"labels": row["labels"]} for pair, row in zip(pairs, sentences, strict=True)
        ]
    if name == "qa":
        ends = {"start_positions": torch.tensor(1), "end_positions": torch.tensor(3)}
        return [{k: v for k, v in row.items() if k != "labels"} | ends for row in sentences]
    return sentences


def masked(features: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a collator of masked language models does: it draws."""
    batch = {key: torch.stack([row[key] for row in features]) for key in features[0]}
    hidden = torch.rand(batch["input_ids"].shape) < 0.4
    batch["labels"] = batch["labels"].masked_fill(~hidden, -100)
    batch["input_ids"] = batch["input_ids"].masked_fill(hidden, 3)
    return batch
