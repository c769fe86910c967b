"""Runs of a tiny classifier whose training texts are attacked, in one process or in several."""

from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from nlp_adv.attacks.words.attacks.build import Resources
from nlp_adv.attacks.words.candidates import CandidateTable
from nlp_adv.data.text_demo import demo_tokenizer
from nlp_adv.training.attacked_texts import AttackedTexts

GOOD, BAD = ("superb", "graceful", "charming"), ("dull", "sluggish", "tedious")
NOUNS = ("plot", "music", "script", "ending")
ROWS = [
    {"text": text.format(noun, word), "label": int(word in GOOD)}
    for text in ("the {0} is {1}", "{1} {0}")
    for noun in NOUNS
    for word in GOOD + BAD
]
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
WORDS = [*GOOD, *BAD, *NOUNS]
TABLE = CandidateTable.from_mapping({word: [w for w in WORDS if w != word] for word in WORDS})
TOKENIZER = demo_tokenizer([row["text"] for row in ROWS])


def data() -> Dataset:
    return Dataset.from_list(ROWS, features=FEATURES)


def texts(attack: str = "a2t", rows: Dataset | None = None, **options) -> AttackedTexts:
    settings = {"resources": Resources(neighbours=TABLE), "share": 0.5, "max_length": 16}
    return AttackedTexts(rows or data(), TOKENIZER, attack, **settings | options)


def model(dropout: float = 0.1) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.5,
        pad_token_id=TOKENIZER.pad_token_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForSequenceClassification(config).double()


def trainer(
    folder: Path, train: AttackedTexts, dropout: float = 0.1, **arguments
) -> AdversarialTrainer:
    settings = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "num_train_epochs": 4,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    made = AdversarialTrainer(
        model=model(dropout),
        args=AdversarialTrainingArguments(output_dir=str(folder), **settings | arguments),
        train_dataset=train,
        data_collator=DataCollatorWithPadding(TOKENIZER),
    )
    train.attack_with(made)
    return made


def found(folder: Path, batch: int = 4) -> dict:
    """What a run attacked, logged and learned; each process says it."""
    train = texts()
    settings = {"per_device_train_batch_size": batch, "adv_mend_loss_scaling": True}
    run = trainer(folder, train, dropout=0.0, num_train_epochs=3, **settings)
    run.train()
    return {
        "processes": run.args.world_size,
        "found": train._found,
        "logs": [one for one in run.state.log_history if "words_drawn" in one],
        "weights": {name: value.clone() for name, value in run.model.state_dict().items()},
    }
