"""Pairs, requests, tokenizer and model of `nlp-adv train --modality chat`, or the demo's."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.cli.chat_arguments import ChatDataArguments, ChatModelArguments
from nlp_adv.cli.loading import load, load_tokenizer
from nlp_adv.columns import ADV_ROWS, COMPLETION_MASK, REJECTED
from nlp_adv.data import chat_demo as demo
from nlp_adv.data.files import read_file
from nlp_adv.data.pairs import COLUMNS, PairCollator, with_utility
from nlp_adv.data.prompts import Prompts, read_benign, read_prompts
from nlp_adv.data.sources import read_splits
from nlp_adv.errors import UserError
from nlp_adv.methods import Method, bare

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments

_LARGE = 100_000_000  # parameters above which an adapter is trained, where no flag says it
_ADAPTER = "adapter_config.json"  # of peft
_ALPHA, _DROPOUT = 16, 0.1  # of LoRA, Xhonneux et al.'s


def load_parts(arguments: TrainArguments) -> dict[str, Any]:
    """Read or generate the rows and check each: what a `ChatTask` is made of.

    Raises:
        UserError: data or tokenizer cannot be had, or a row cannot be trained on.
    """
    return _demo(arguments) if arguments.demo else _given(arguments)


def _demo(arguments: TrainArguments) -> dict[str, Any]:
    seed, data, report = arguments.training.seed, arguments.data, arguments.report
    tokenizer = demo.chat_tokenizer()
    collator = PairCollator(tokenizer, max_length=data.max_seq_length)
    asked = demo.attacked_rows(seed)
    prompts = Prompts(tuple(r["prompt"] for r in asked), tuple(r["target"] for r in asked))

    @cache
    def base() -> PreTrainedModel:
        print("A base model learns the language, half a minute or more.", file=sys.stderr)
        return demo.base_model(tokenizer, collator, seed)

    parts = {
        "splits": {"train": demo.training_rows(seed)[: data.max_train_samples]},
        "processor": tokenizer,
        "label_names": None,
        "collator": collator,
        "prompts": prompts.drawn(report.attack_examples, seed),
        "benign": demo.benign_rows(seed)[: data.max_eval_samples],
        "judge": report.judged([demo.REFUSAL]),
        "new_tokens": data.new_tokens,
    }
    return parts | {"new_model": _with_adapter(arguments, lambda: copy.deepcopy(base()))}


def _given(arguments: TrainArguments) -> dict[str, Any]:
    model, data, report = arguments.model, arguments.data, arguments.report
    if arguments.trains and (Path(str(model.model_name_or_path)) / _ADAPTER).is_file():
        raise UserError(
            f"{model.model_name_or_path} holds an adapter, which is not trained on here: merge it "
            f"into its model (merge_and_unload), save that and name it."
        )
    name = str(model.tokenizer_name or model.model_name_or_path)
    tokenizer = load_tokenizer(name, model.hub(name))
    collator = PairCollator(tokenizer, max_length=data.max_seq_length)
    splits = _rows(arguments, collator)
    parts: dict[str, Any] = {
        "splits": splits,
        "processor": tokenizer,
        "label_names": None,
        "collator": collator,
        "new_model": _with_adapter(arguments, lambda: _pretrained(arguments, model)),
    }
    if data.prompts_file is None:
        return parts
    Prompted(tokenizer, collator)  # without a chat template nobody knows what is asked
    prompts = read_prompts(Path(data.prompts_file))
    refusals = prompts.chosen or [one["chosen"] for one in splits["train"] if _is_text(one)]
    benign = read_benign(Path(data.benign_file)) if data.benign_file else ()
    judge = report.judged(refusals, benign)
    judge.openers(tokenizer)
    return parts | {
        "prompts": prompts.drawn(report.attack_examples, arguments.training.seed),
        "benign": [{"prompt": one} for one in benign],
        "judge": judge,
        "new_tokens": data.new_tokens,
    }


def _is_text(row: dict[str, Any]) -> bool:
    return isinstance(row.get("chosen"), str)


def _rows(arguments: TrainArguments, collator: PairCollator) -> dict[str, list[dict[str, Any]]]:
    """The splits, every row of them checked, with utility rows beside the training pairs."""
    data, training = arguments.data, arguments.training
    method = training.adversarial_schedule("text").method
    pairs_only = method.name if getattr(bare(method), "reads_completions", False) else None
    splits = read_splits(data.source(arguments.model.token))
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("train", "validation"):
        if name not in splits:
            continue
        limit = data.max_train_samples if name == "train" else data.max_eval_samples
        rows = splits[name]
        if limit is not None and limit < len(rows):
            drawn = rows.shuffle(seed=training.seed) if name == "train" else rows
            rows = drawn.select(range(limit))
        where = getattr(data, f"{name}_file") or f"The {name} split of {data.dataset_name}"
        found[name] = checked_rows(rows, str(where), collator, pairs_for=pairs_only)
    if data.utility_file is not None:
        found["train"] = _mixed(found["train"], data, collator, seed=training.seed)
    elif pairs_only and not any(_is_utility(row) for row in found["train"]):
        print(
            "Note: there are no utility rows, without which a model unlearns what it could do: "
            "name some with --utility_file.",
            file=sys.stderr,
        )
    return found


def _is_utility(row: dict[str, Any]) -> bool:
    return "utility" in row or "chosen" not in row


def _mixed(
    rows: list[dict[str, Any]], data: ChatDataArguments, collator: PairCollator, *, seed: int
) -> list[dict[str, Any]]:
    """Pairs with utility rows of the file beside them."""
    path = str(data.utility_file)
    if any(_is_utility(row) for row in rows):
        raise UserError(
            f"The training rows hold utility rows already, or no pairs; leave out --utility_file "
            f"{path}, whose rows stand beside pairs."
        )
    utility = checked_rows(read_file(Path(path)), path, collator)
    if any("chosen" in row for row in utility):
        raise UserError(
            f"{path} has a column chosen: utility rows are messages, or prompt and completion."
        )
    return with_utility(rows, utility, each=data.utility_each, seed=seed)


def checked_rows(
    rows: Dataset, where: str, collator: PairCollator, *, pairs_for: str | None = None
) -> list[dict[str, Any]]:
    """The rows as the collator takes them.

    Args:
        rows: of the data; other columns are left out.
        where: they are, for messages.
        collator: each row makes a batch of its own, so that a mistake is found before training.
        pairs_for: a method that trains on pairs and needs some.

    Raises:
        UserError: a column is missing, or a row is of no use; it is named by its number.
    """
    columns, names = set(rows.column_names), ", ".join(rows.column_names)
    needed = "prompt, chosen and rejected (pairs)"
    if pairs_for is not None and not {"chosen", "rejected"} <= columns:
        raise UserError(
            f"--adv {pairs_for} trains on pairs, and {where} has the columns {names}: it needs "
            f"{needed}."
        )
    if not columns & {"chosen", "rejected", "messages", "completion", "utility"}:
        raise UserError(
            f"{where} has the columns {names}; it needs {needed}, or messages, or prompt and "
            f"completion."
        )
    found = []
    for number, row in enumerate(rows, 1):
        kept = {key: row[key] for key in COLUMNS if row.get(key) is not None}
        try:
            _check_row(kept, collator)
        except UserError as error:
            raise UserError(f"{where}, row {number}: {error}") from error
        found.append(kept)
    return found


def _check_row(row: dict[str, Any], collator: PairCollator) -> None:
    blank = [key for key, value in row.items() if isinstance(value, str) and not value.strip()]
    if blank:
        raise UserError(f"its {blank[0]} is empty; fill it in, or leave the row out.")
    batch = collator([row])
    prompt = (batch["attention_mask"] == 1) & (batch[COMPLETION_MASK] == 0)
    if not bool(prompt[batch[ADV_ROWS] == REJECTED].any(1).all()):
        raise UserError("its prompt has no token, so that δ would have no place.")


def _pretrained(arguments: TrainArguments, model: ChatModelArguments) -> PreTrainedModel:
    """The model that is named: weights that are trained in float32, frozen ones as `--bf16` says.

    Adam's steps are lost in bfloat16; an adapter keeps float32 of its own.
    """
    name, training = str(model.model_name_or_path), arguments.training
    narrow = training.bf16 and arguments.trains and _wants_adapter(arguments)
    dtype = torch.bfloat16 if narrow else torch.float32
    loaded: PreTrainedModel = load(
        AutoModelForCausalLM, "language model", name, model.hub(name), dtype=dtype
    )
    return loaded


def _with_adapter(
    arguments: TrainArguments, new: Callable[[], PreTrainedModel]
) -> Callable[[], Any]:
    """The model, with LoRA where that is asked for or decided."""
    if not arguments.trains or not _wants_adapter(arguments):
        return new
    try:
        import peft
    except ImportError as error:
        raise UserError(
            "An adapter (LoRA) needs peft: pip install 'nlp_adv[trl]', or train all weights with "
            "--lora false."
        ) from error
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=arguments.model.lora_rank,
        lora_alpha=_ALPHA,
        lora_dropout=_DROPOUT,
        target_modules="all-linear",
    )
    return lambda: peft.get_peft_model(new(), replace(config))


def _wants_adapter(arguments: TrainArguments) -> bool:
    model: ChatModelArguments = arguments.model
    method = arguments.training.adversarial_schedule("text").method
    compares = reads_reference(method)
    if compares and model.lora is False:
        raise UserError(
            f"--adv {method.name} compares the model with what it was before, which is the model "
            f"without its adapter: leave out --lora false."
        )
    if model.lora is not None or compares or arguments.demo:
        return bool(model.lora) or compares
    return _parameters(model) > _LARGE


def reads_reference(method: Method) -> bool:
    """Whether a method asks what the model found before it was trained."""
    return bool(getattr(bare(method), "reads_reference", False))


def _parameters(model: ChatModelArguments) -> int:
    """Of the model, told from its configuration."""
    name = str(model.model_name_or_path)
    config = load(AutoConfig, "configuration", name, model.hub(name))
    with torch.device("meta"):
        kind: Any = AutoModelForCausalLM
        built = kind.from_config(config, trust_remote_code=model.trust_remote_code)
    return int(built.num_parameters())


def longest(rows: Sequence[dict[str, Any]], collator: PairCollator) -> list[int]:
    """The ids of the longest row of some."""
    found: list[int] = []
    for row in rows:
        batch = collator([row])
        lengths = batch["attention_mask"].sum(1)
        if int(lengths.max()) > len(found):
            place = int(lengths.argmax())
            found = batch["input_ids"][place][: int(lengths[place])].tolist()
    return found
