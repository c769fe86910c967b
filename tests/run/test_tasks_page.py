"""docs/howto/tasks.md: its commands run, and what it says of δ and of compared outputs holds."""

import re
import runpy
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import shapes
import torch
import transformers as hf
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import HfArgumentParser, Trainer

from nlp_adv.attacks import PGD
from nlp_adv.errors import UserError
from nlp_adv.methods import FGM, RDrop, Scaled
from nlp_adv.perturbation import L2Ball, StepError
from nlp_adv.run.arguments import RunArguments
from nlp_adv.run.notes import Orders
from nlp_adv.run.patch import patch
from nlp_adv.run.words import own_words
from nlp_adv.sites.objective import objective

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"^```bash\n(nlp-adv run .*?)^```$", PAGE.replace("\\\n", ""), flags=re.DOTALL | re.MULTILINE
)
SCRIPTS = {
    "run_qa.py": "qa",
    "run_swag.py": "swag",
    "run_summarization.py": "summarization",
    "run_mlm.py": "mlm",
}
SMALL = "--max_steps 2 --per_device_train_batch_size 4 --logging_steps 1 --use_cpu true"
SMALL += " --save_strategy no --report_to none --disable_tqdm true"


def batch(task: str) -> dict[str, Tensor]:
    rows = shapes.data(task)[:3]
    if task == "mlm":
        return shapes.masked(rows)
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def test_every_task_has_a_command():
    assert {word for block in BLOCKS for word in shlex.split(block)} >= SCRIPTS.keys()


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_command_trains(number, tmp_path, monkeypatch, capsys):
    """With a script of the same shape, which takes the flags of training and leaves the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = shlex.split(BLOCKS[number])
    assert words[:2] == ["nlp-adv", "run"]
    place = 2 + own_words(words[2:])
    (given,) = HfArgumentParser(RunArguments).parse_args_into_dataclasses(words[2:place])
    text = shapes.script(SCRIPTS[words[place]])
    text = text.replace("(args,) =", "args, *_ =")
    text = text.replace("into_dataclasses()", "into_dataclasses(return_remaining_strings=True)")
    Path(words[place]).write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [*words[place:], *SMALL.split()])
    monkeypatch.setattr(Trainer, "__init__", Trainer.__init__)
    patch(Trainer, Orders(asdict(given), str(tmp_path)))
    trainer = runpy.run_path(words[place], run_name="__main__")["trainer"]
    assert f"--adv {given.adv} " in capsys.readouterr().err
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    assert all(0 < entry["delta_relative"] <= given.adv_epsilon + 1e-6 for entry in logs)


@pytest.mark.parametrize(
    ("task", "rows"), [("qa", 3), ("swag", 6), ("summarization", 3), ("mlm", 3)]
)
def test_each_row_has_a_ball_of_its_own(task, rows):
    """ε times the norm of the row's own embeddings: of a question with its passage, of a choice."""
    one = objective(shapes.model(task).train(), batch(task), seed=0)
    Scaled(FGM(L2Ball(0.03)), unit="relative").step(one)
    assert len(one.delta) == rows
    real = one.x * one.mask
    torch.testing.assert_close(one.delta.norm(dim=(1, 2)), 0.03 * real.norm(dim=(1, 2)))


def test_the_decoder_reads_clean_words():
    model, seen = shapes.model("summarization").eval(), []
    model.decoder.embed_tokens.register_forward_hook(lambda m, a, output: seen.append(output))
    one = objective(model, batch("summarization"), seed=0)
    seen.clear()
    clean, moved = one.forward(), one.forward(0.3 * torch.randn_like(one.x))
    assert torch.equal(*seen)
    assert not torch.equal(clean.logits, moved.logits)


@pytest.mark.parametrize("task", ["swag", "summarization", "mlm"])
def test_what_is_compared(task):
    given = batch(task)
    one = objective(shapes.model(task).eval(), given, seed=0)
    p, q = one.forward(), one.forward(0.3 * torch.randn_like(one.x))
    logs = [log_softmax(output.logits, -1) for output in (p, q)]
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    if task != "swag":
        counted = given["labels"] != -100
        kl = torch.stack(
            [v[c].sum() / max(1, int(c.sum())) for v, c in zip(kl, counted, strict=True)]
        )
    torch.testing.assert_close(one.divergence(p, q), kl.mean(), rtol=1e-10, atol=0)
    assert kl.mean() > 0


def test_a_search_for_the_answer_cannot_be_compared():
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "vocab_size": shapes.VOCAB}
    model = hf.XLNetForQuestionAnswering(hf.XLNetConfig(**sizes)).double().train()
    FGM(L2Ball(0.1)).step(objective(model, batch("qa"), seed=0))
    with pytest.raises(StepError, match="compares logits"):
        RDrop(1.0).step(objective(model, batch("qa"), seed=0))


@pytest.mark.parametrize("task", ["qa", "swag"])
def test_attacks_take_neither(task):
    with pytest.raises(UserError, match=r"one label|answers to"):
        PGD(L2Ball(0.1), 0.1, 2, unit="relative")(shapes.model(task).eval(), batch(task))
