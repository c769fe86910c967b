"""`scripts/trainer_tests.py`: whose Trainer a test file meets, and what the table says of it."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "trainer_tests", Path(__file__).parents[1] / "scripts" / "trainer_tests.py"
)
trainer_tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trainer_tests)

TESTS = """
import torch
import transformers
from transformers import NameOfAnotherVersion, Trainer, TrainingArguments

class Line(torch.nn.Linear):
    def forward(self, x, labels):
        return {"loss": ((super().forward(x).squeeze(-1) - labels) ** 2).mean()}

def trainer(folder):
    args = TrainingArguments(str(folder), max_steps=1, report_to="none", save_strategy="no")
    row = {"x": torch.ones(2), "labels": torch.tensor(1.0)}
    return Trainer(model=Line(2, 1), args=args, train_dataset=[row] * 8)

def test_it_is_ours(tmp_path):
    assert transformers.Trainer is Trainer
    assert "AdversarialMixin" in [base.__name__ for base in type(trainer(tmp_path)).__mro__]

def test_trains(tmp_path):
    assert trainer(tmp_path).train().global_step == 1

def test_of_another_version():
    NameOfAnotherVersion()
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "tests" / "trainer").mkdir(parents=True)
    (folder / "tests" / "trainer" / "test_trainer.py").write_text(TESTS)
    (folder / "tests" / "trainer" / "test_trainer_fsdp.py").write_text("raise RuntimeError")
    (folder / "setup.py").write_text('setup(\n    version="5.2.0.dev0",  # of x.y.z\n)')
    (folder / "pytest.ini").write_text("[pytest]")
    return folder


def table(checkout, *argv: str) -> str:
    path = checkout / "table.md"
    folder = ["--folder", str(checkout / "runs"), "--table", str(path)]
    trainer_tests.main([str(checkout), *argv, *folder])
    return path.read_text("utf-8")


RECORD = """<testsuites><testsuite>
<testcase classname="tests.trainer.test_trainer.Some" name="test_a">{a}</testcase>
<testcase classname="tests.trainer.test_trainer.Some" name="test_b">{b}</testcase>
<testcase classname="tests.trainer.test_trainer.Some" name="test_c">{c}</testcase>
<testcase classname="tests.trainer.test_trainer.Some" name="test_d"><skipped message=""/></testcase>
</testsuite></testsuites>
"""
TRAINED = '<properties><property name="trained" value="2"/></properties>'


def test_what_has_run_is_only_counted(checkout):
    fails = '<failure message="{}"/>'.format
    records = {
        "stock": RECORD.format(a="", b="", c=fails("OSError: no network 2026")),
        "fgm": RECORD.format(
            a=TRAINED + fails("AssertionError: 1 != 2&#10;more"),
            b=fails("nlp_adv.errors.UserError: No embedding."),
            c=fails("OSError: no network 2027"),
        ),
        "none": RECORD.format(a=TRAINED, b="", c=fails("OSError: no network 2026")),
    }
    for which, record in records.items():
        path = checkout / "runs" / which / "test_trainer.xml"
        path.parent.mkdir(parents=True)
        path.write_text(record)
    text = table(checkout)
    assert "| test_trainer.py | 4 | 1 | 1 | 2 | 2 | 1 | 0 | 0 | 0 | 1 |" in text
    assert "fsdp" not in text
    assert "of transformers\n5.2.0.dev0," in text
    assert "differ under --adv none\n\nNone.\n" in text
    assert "- 1 passed and failed with ours: “AssertionError: 1 != 2” `Some::test_a`\n" in text
    assert "- 1 passed and failed with ours: “No embedding.” `Some::test_b`\n" in text
    assert text.endswith("- 1: OSError: no network …\n")


@pytest.mark.slow
def test_a_checkouts_tests_meet_our_trainer(checkout):
    text = table(checkout, "--adv", "none", "fgm")
    assert "| test_trainer.py | 3 | 0 | 2 | 1 | 1 | 1 | 0 | 0 | 0 | 1 |" in text
    ours = "- 1 failed and passed with ours: “AssertionError: assert 'AdversarialMixin' in "
    assert text.count(ours) == 2  # under none and under fgm
    assert "“The model has no nn.Embedding; " not in text  # a class by another name
    assert "“Line has no nn.Embedding; " in text
    assert "has no NameOfAnotherVersion" in text
