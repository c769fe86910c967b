"""What an attack cost is what all its runs did, however many there were."""

import json
import shutil
from functools import partial

import pytest
from commands import typed as call
from test_attack_command import given, straight  # noqa: F401  # fixtures
from transformers import BertForSequenceClassification

from nlp_adv.robustness.store import Store

SLOW = partial(pytest.param, marks=pytest.mark.slow)
pytestmark = pytest.mark.fault("D6")


class Killed(BaseException):
    """As a kill: nothing of ours is run on the way out."""


@pytest.fixture
def texts_run(monkeypatch):
    """How many texts the model was run on, by the model itself."""
    counted, forward = [0], BertForSequenceClassification.forward

    def counting(self, input_ids=None, **kwargs):
        output = forward(self, input_ids=input_ids, **kwargs)
        counted[0] += len(input_ids)  # a look that ends at the embedding does not come here
        return output

    monkeypatch.setattr(BertForSequenceClassification, "forward", counting)
    return counted


def cost(folder) -> dict:
    return json.loads((folder / "evaluation.json").read_text())["found"]["cost"]


def killed_after(monkeypatch, count: int) -> None:
    written, whole = [], Store.cost

    def until(self, work):
        total = whole(self, work)
        if any(work.values()):  # as a folder is opened, nothing has been done yet
            written.append(total)
        if len(written) == count:
            raise Killed
        return total

    monkeypatch.setattr(Store, "cost", until)


@pytest.mark.parametrize("stops", [[1], [30, 25], SLOW([17]), SLOW([5, 5, 5])])
def test_costs_add_up_over_killed_runs(given, tmp_path, monkeypatch, texts_run, stops):  # noqa: F811
    out = tmp_path / "out"
    for stop in stops:
        with monkeypatch.context() as patch:
            killed_after(patch, stop)
            with pytest.raises(Killed):
                call("attack", **given, output_dir=out)
    assert call("attack", **given, output_dir=out).code == 0
    found = cost(out)
    # Every run looks twice at 32 texts, whether the model answers at random: no cost of the attack.
    # The one that attacks embeddings looks first at a batch of 40, to count the model's calls.
    looks = 2 * 32 * (len(stops) + 1) + 40
    assert found["forwards"] == texts_run[0] - looks
    # Once more costs nothing, and forgets nothing.
    assert call("attack", **given, output_dir=out).code == 0
    assert cost(out) == found
    assert texts_run[0] - looks == found["forwards"]


def test_half_of_a_line_is_passed_over(given, straight, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    shutil.copytree(straight[1], out)
    with (out / "cost.jsonl").open("a") as file:
        file.write('{"records": 3, "forw')
    assert call("attack", **given, output_dir=out).code == 0
    assert cost(out) == cost(straight[1])


@pytest.mark.parametrize("journal", [True, False])
def test_records_that_are_run_again_are_not_counted_twice(given, straight, tmp_path, journal):  # noqa: F811
    """With the first records alone, the rest costs what it cost before."""
    out = tmp_path / "out"
    shutil.copytree(straight[1], out)
    lines = (out / "records.jsonl").read_bytes().splitlines(keepends=True)
    (out / "records.jsonl").write_bytes(b"".join(lines[:40]))  # the first attack's
    if not journal:  # as 0.4.0 left it
        (out / "cost.jsonl").unlink()
    assert call("attack", **given, output_dir=out).code == 0
    assert cost(out)["forwards"] == cost(straight[1])["forwards"]
    assert cost(out)["tokens"] == cost(straight[1])["tokens"]
