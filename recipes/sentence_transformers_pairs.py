"""A bi-encoder of sentence-transformers under `--adv freelb`: each column has a δ of its own.

    python recipes/sentence_transformers_pairs.py sentence-transformers/all-MiniLM-L6-v2 \\
        pairs.csv --output_dir out --adv freelb

pairs.csv has the columns `anchor` and `positive`. `--adv none` is sentence-transformers' training.
"""

import sys
from dataclasses import dataclass

from datasets import load_dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import HfArgumentParser

from nlp_adv import AdversarialArguments, AdversarialMixin


@dataclass
class Flags(AdversarialArguments, SentenceTransformerTrainingArguments):
    """Their flags and ours."""


class AdversarialTrainer(AdversarialMixin, SentenceTransformerTrainer):
    """Their Trainer under ours."""


if __name__ == "__main__":
    name, pairs, *flags = sys.argv[1:]
    (args,) = HfArgumentParser(Flags).parse_args_into_dataclasses(flags)
    model, rows = SentenceTransformer(name), load_dataset("csv", data_files=pairs, split="train")
    loss = MultipleNegativesRankingLoss(model)
    trainer = AdversarialTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    trainer.train()
    trainer.save_model()
