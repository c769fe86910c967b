"""A judge of one's own in evaluations of language models."""

import pytest
from chat_small import ASKED, Sure, command_line, evaluated, shallow_model

from nlp_adv.attacks.chat.reading import ReadingJudge
from nlp_adv.cli import attack
from nlp_adv.data.chat_demo import (
    REFUSALS,
)
from nlp_adv.data.prompts import Prompts
from nlp_adv.errors import UserError
from nlp_adv.robustness.chat_attacks import ChatAttacks


@pytest.fixture(scope="module")
def model():
    return shallow_model()


def test_a_judge_of_ones_own(model, tmp_path):
    judge = ReadingJudge.of(Sure(), REFUSALS)
    found = evaluated(model, tmp_path, judge=judge)
    exact = evaluated(model)
    assert list(found.titles) == list(exact.titles)
    assert found.clean.count == 3  # all are refused as they stand
    for title in ("embedding-pgd@1", "prefilling"):
        # Who writes the whole answer begins with its first word.
        mine, theirs = found.summaries[title], exact.summaries[title]
        assert mine.under_attack.count <= theirs.under_attack.count
    assert found.summaries["embedding-pgd@1"].under_attack.count == 0
    assert found.summaries["prefilling"].under_attack.count == 0  # what is given counts too
    assert "begins with sure" in found.details["judge"]
    assert any("of version 1" in note and "greedy" in note for note in found.notes)
    (check,) = (one for one in found.checks if one.name == "refusals")
    assert check.passed
    assert not any("at random" in note for note in found.notes)
    before = (tmp_path / "records.jsonl").read_bytes()
    again = evaluated(model, tmp_path, judge=ReadingJudge.of(Sure(), REFUSALS))
    assert (tmp_path / "records.jsonl").read_bytes() == before
    assert again.hashes == found.hashes


def test_a_judge_of_ones_own_is_in_the_hash(model):
    alone = Prompts(ASKED.prompts[:1], ASKED.targets[:1])
    given = {
        "attacks": ChatAttacks(names=("prefilling",), depths=(1,)),
        "prompts": alone,
        "judge": ReadingJudge.of(Sure()),
        "benign": [],
    }
    others = [
        {},
        {"judge": ReadingJudge.of(Sure(version="2"))},
        {"judge": ReadingJudge.of(Sure(), threshold=0.9)},
        {"generations": 2},
        {"generations": 2, "temperature": 0.5},
    ]
    hashes = [evaluated(model, **{**given, **other}).hashes["prefilling"] for other in others]
    assert len(set(hashes)) == len(others)
    again = evaluated(model, **given, seed=0)
    assert again.hashes["prefilling"] == hashes[0]


def test_a_judge_that_fails_leaves_nothing(model, tmp_path):
    def broken(asked, answers):
        raise ValueError("no")

    with pytest.raises(UserError, match=r"judge .*broken failed on .*ValueError: no"):
        evaluated(model, tmp_path / "out", judge=ReadingJudge.of(broken, REFUSALS))
    assert not (tmp_path / "out").exists()


def test_a_judge_without_refusals(model):
    """It says what is answered; how much is refused needs to be told."""
    prefilling = ChatAttacks(names=("prefilling",), depths=(1,))
    judge = ReadingJudge.of(Sure())
    found = evaluated(model, attacks=prefilling, judge=judge, benign=[])
    (check,) = (one for one in found.checks if one.name == "refusals")
    assert check.passed is None
    assert "--refusals" in check.finding
    with pytest.raises(UserError, match=r"give --refusals.*or leave out --benign_file"):
        evaluated(model, attacks=prefilling, judge=judge)
    with pytest.raises(UserError, match=r"exact reads no answers.*3 generations"):
        evaluated(model, attacks=prefilling, generations=3)


@pytest.fixture
def command(model, tmp_path):
    return command_line(model, tmp_path)


def test_the_command_with_a_judge_of_ones_own(command, tmp_path, capsys):
    place = tmp_path / "judges.py"
    place.write_text(
        "def sure(asked, answers):\n    return [a.startswith('sure') for a in answers]\n"
    )
    attack.main([*command, "--judge", f"{place}:sure", "--generations", "2"])
    said = capsys.readouterr().out
    assert "The judge sure has no version, and a hash of its source" in said
    assert "2 generations a look" in said
    for judge, wrong in ((f"{place}:none", "no function 'none'"), ("best", "no judge 'best'")):
        with pytest.raises(UserError, match=wrong):
            attack.main([*command, "--judge", judge])
    with pytest.raises(UserError, match="reads no answers"):
        attack.main([*command, "--generations", "2"])
