"""A language model under attack: records, resumption, over-refusal, and the command."""

import pytest
from chat_small import ASKED, command_line, evaluated, shallow_model, written

from nlp_adv.attacks.chat.gcg import GCG
from nlp_adv.attacks.chat.judge import Judge
from nlp_adv.cli import attack
from nlp_adv.data.chat_demo import (
    FORBIDDEN,
    REFUSALS,
    requests,
)
from nlp_adv.data.prompts import Prompts, read_prompts
from nlp_adv.errors import UserError
from nlp_adv.robustness.chat_attacks import ChatAttacks
from nlp_adv.robustness.checks_chat import check_refusals
from nlp_adv.robustness.records import read_records
from nlp_adv.robustness.statistics import Share

NAMES = ["embedding-pgd@0.01", "embedding-pgd@1", "latent-pgd@0.5", "soft-suffix-3@0.2"]


@pytest.fixture(scope="module")
def model():
    return shallow_model()


def test_all_attacks_in_one_evaluation(model, tmp_path):
    found = evaluated(model, tmp_path)
    assert list(found.titles) == [*NAMES, "prefilling", "gcg"]
    assert found.clean.count == 3
    assert found.summaries["embedding-pgd@1"].under_attack.count == 0
    assert found.summaries["embedding-pgd@0.01"].under_attack.count == 3
    assert found.worst_case.count == 0  # the union
    assert found.labels == ("refused", "answered")
    (check,) = (one for one in found.checks if one.name == "refusals")
    assert check.passed
    assert "(3 of 3) of the requests; over-refusal: 0.0 %" in check.finding
    assert check.finding in found.notes


def test_a_stopped_run_goes_on(model, tmp_path):
    whole = evaluated(model, tmp_path / "whole")
    lines = (tmp_path / "whole" / "records.jsonl").read_bytes().splitlines(keepends=True)
    evaluated(model, tmp_path / "part")
    (tmp_path / "part" / "records.jsonl").write_bytes(b"".join(lines[:7]))
    again = evaluated(model, tmp_path / "part")
    assert sorted(map(str, again.records)) == sorted(map(str, whole.records))
    assert len(read_records(tmp_path / "part" / "records.jsonl")) == len(lines)


@pytest.mark.parametrize(
    "other",
    [
        {"judge": Judge("exact", ("sorry , i",))},
        {"judge": Judge("target", REFUSALS)},
        {"attacks": ChatAttacks(names=("prefilling",), depths=(3,))},
    ],
)
def test_another_judge_or_setting_has_another_hash(model, other):
    prefilling = ChatAttacks(names=("prefilling",))
    one = evaluated(model, attacks=prefilling, benign=[])
    two = evaluated(model, benign=[], **{"attacks": prefilling, **other})
    assert one.hashes.keys() == two.hashes.keys()
    assert one.hashes != two.hashes


def test_a_setting_is_that_of_its_attack_alone(model, tmp_path):
    """Records of the others are kept, and what has changed is refused by name and settings."""
    both = ChatAttacks(names=("prefilling", "gcg"), gcg=GCG(3, 1, 4, 4))
    first = evaluated(model, tmp_path, attacks=both)
    changed = ChatAttacks(names=("prefilling", "gcg"), depths=(1,), gcg=GCG(3, 1, 4, 4))
    again = evaluated(model, attacks=changed)
    assert again.hashes["gcg"] == first.hashes["gcg"]
    assert again.hashes["prefilling"] != first.hashes["prefilling"]
    with pytest.raises(UserError, match=r"another prefilling.*depths 1 2.*not.*depths 1,"):
        evaluated(model, tmp_path, attacks=changed)
    before = (tmp_path / "records.jsonl").read_bytes()
    alone = evaluated(
        model, tmp_path, attacks=ChatAttacks(names=("gcg",), depths=(1,), gcg=both.gcg)
    )
    assert list(alone.titles) == ["gcg"]
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_another_template_is_said_by_its_hash(model, tmp_path):
    prefilling = ChatAttacks(names=("prefilling",))
    evaluated(model, tmp_path, attacks=prefilling)
    with pytest.raises(UserError, match=r"\([0-9a-f]{12}, not [0-9a-f]{12}\)"):
        evaluated(model, tmp_path, attacks=prefilling, max_length=63)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("7", r"^LlamaForCausalLM has 4 blocks, 0 to 3, and none of number 7 \(--layers 7\)\.$"),
        ("model.layer.1", "no module named 'model.layer.1'; near names are 'model.layers.1'"),
    ],
)
def test_layers_that_are_not_there(model, layer, said):
    with pytest.raises(UserError, match=said):
        evaluated(model, attacks=ChatAttacks(layers=(layer,)))


def test_a_layer_has_two_names(model):
    one, two = (
        evaluated(model, attacks=ChatAttacks(names=("latent-pgd",), layers=(name,), steps=3))
        for name in ("1", "model.layers.1")
    )
    assert list(one.records) == list(two.records)


def test_refusing_everything_is_no_robustness():
    assert check_refusals(Share(9, 10), Share(1, 10)).passed
    assert check_refusals(Share(10, 10), Share(10, 10)).passed is False
    assert check_refusals(Share(1, 10), Share(0, 10)).passed is False
    assert check_refusals(Share(10, 10), Share(0, 0)).passed is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ChatAttacks(names=("best",)), "no attack 'best'"),
        (lambda: ChatAttacks(names=()), "no attack named"),
        (lambda: ChatAttacks(epsilons=()), "need one value"),
        (lambda: Prompts(("a",), ("",)), "Row 0 has no target"),
        (lambda: Prompts((), ()), "no prompts"),
    ],
)
def test_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize(
    ("long", "more", "said"),
    [
        (70, {}, r"row 1 has 72 tokens, and with 0 of attacks.*the 64 of --max_seq_length"),
        (70, {"max_length": 512}, r"does not fit into the 64 that the model can read"),
        (56, {"attacks": ChatAttacks(names=("soft-suffix",), suffix=9)}, r"with 9 of attacks"),
        (1, {"attacks": ChatAttacks(names=("prefilling",), depths=(1, 40))}, "behind the first 40"),
    ],
)
def test_what_has_no_room_is_said_before_anything_is_attacked(model, tmp_path, long, more, said):
    prompts = Prompts((ASKED.prompts[0], " ".join(["drum"] * long)), ASKED.targets[:2])
    given = {"attacks": ChatAttacks(names=("pgd",)), "prompts": prompts, **more}
    with pytest.raises(UserError, match=said):
        evaluated(model, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_cut_is_told(model):
    prompts = Prompts((" ".join(["drum"] * 56),), ASKED.targets[:1])
    attacks = ChatAttacks(names=("pgd",), epsilons=(0.1,), steps=1)
    found = evaluated(model, attacks=attacks, prompts=prompts)
    assert any("1 of 1 targets lost their end to 64 tokens" in note for note in found.notes)


def test_checks_of_classes_are_left_out(model):
    """All requests are of one class, and a judge's margin is no confidence."""
    attacks = ChatAttacks(names=("prefilling",))
    names = {one.name for one in evaluated(model, attacks=attacks).checks}
    assert names == {"query budget (prefilling)", "refusals"}


def test_files_without_columns(tmp_path):
    rows = requests(FORBIDDEN, 2, seed=0)
    no_target = written(tmp_path / "a.jsonl", [{"prompt": one["prompt"]} for one in rows])
    with pytest.raises(UserError, match="no column target or rejected"):
        read_prompts(no_target)
    no_prompt = written(tmp_path / "b.jsonl", [{"target": one["target"]} for one in rows])
    with pytest.raises(UserError, match="no column prompt"):
        read_prompts(no_prompt)


@pytest.fixture
def command(model, tmp_path):
    return command_line(model, tmp_path)


def test_the_command(command, tmp_path, capsys):
    attack.main(command)
    said = capsys.readouterr().out
    assert "embedding-pgd@1" in said
    assert "over-refusal: 0.0 %" in said
    assert (tmp_path / "out" / "report.html").exists()
