"""Accuracies of image classifiers: clean, under attack, in the worst case; kept and continued."""

from dataclasses import replace

import faulty_models as small
import numpy as np
import pytest
import torch
from faulty_models import record
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nlp_adv.attacks import FGSM, PGD, Attack, DeepFool, Noise
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball, LInfBall
from nlp_adv.robustness import epsilon_sweep, evaluate_images, image_evaluator
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.fingerprint import described
from nlp_adv.robustness.records import read_records
from nlp_adv.robustness.statistics import Share, is_robust, summarise
from nlp_adv.sites.normalisation import Pixels
from nlp_adv.training.callbacks import RobustnessCallback

ATTACKS = {
    "fgsm": FGSM(0.05, "margin"),
    "pgd": PGD(LInfBall(0.05), step_size=0.015, steps=4, loss="margin", until_fooled=True),
    "noise": Noise(LInfBall(0.2), draws=2),
}


def batches(size: int = 8, count: int = 24):
    x, y = small.images(count)
    y = y.clone()
    y[::6] = (y[::6] + 1) % small.CLASSES  # some that are wrong without attack
    return [(x[at : at + size], y[at : at + size]) for at in range(0, count, size)]


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluate_images(small.trained(), batches(), ATTACKS)


class TestAccuracies:
    def test_each_attacks_number_is_its_own(self, found):
        x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
        for name, attack in ATTACKS.items():
            result = attack(small.trained(), x, y)
            summary = found.summaries[name]
            fell = result.success & result.attackable
            assert summary.clean == found.clean == Share(int(result.attackable.sum()), 24)
            assert summary.success == Share(int(fell.sum()), int(result.attackable.sum()))
            assert summary.under_attack.count == int((result.attackable & ~fell).sum())
            survives = int((result.survives_8_bit & fell).sum())
            assert summary.fooled_8_bit == Share(survives, summary.success.total)
            assert summary.l2 == pytest.approx(result.summary()["l2"], rel=1e-6, nan_ok=True)
            assert summary.linf == pytest.approx(result.summary()["linf"], rel=1e-6, nan_ok=True)

    def test_the_worst_case_is_at_most_each_attack(self, found):
        assert found.worst_case.value <= min(s.under_attack.value for s in found.summaries.values())
        for name in ATTACKS:
            for one in found.of(name):
                assert not found.robust()[one.id] or one.outcome == "robust"

    def test_wrong_images_are_skipped_and_nothing_is_done_to_them(self, found):
        skipped = [one for one in found.of("pgd") if one.outcome == "wrong"]
        assert [one.id for one in skipped] == [0, 6, 12, 18]
        for one in skipped:
            assert one.adversarial_prediction == one.prediction != one.label
            done = one.found
            assert (done.l2, done.l0, done.gradient_passes, done.survives_8_bit) == (0, 0, 0, False)

    def test_batches_change_nothing(self, found):
        whole = evaluate_images(small.trained(), batches(24), ATTACKS)
        for mine, theirs in zip(found.records, whole.records, strict=True):
            assert (mine.id, mine.outcome, mine.example) == (
                theirs.id,
                theirs.outcome,
                theirs.example,
            )
            assert mine.found.l2 == pytest.approx(theirs.found.l2, abs=1e-9)

    def test_more_starts_are_one_attack_and_fooled_images_leave_after_the_first(self):
        attack = replace(ATTACKS["pgd"], steps=1)
        one = evaluate_images(small.trained(), batches(), {"pgd": attack})
        several = evaluate_images(small.trained(), batches(), {"pgd": attack}, restarts=4)
        fell = torch.zeros(24, dtype=torch.bool)
        for seed in range(4):
            alone = evaluate_images(small.trained(), batches(), {"pgd": replace(attack, seed=seed)})
            fell |= torch.tensor([r.outcome == "fooled" for r in alone.records])
        assert [r.outcome == "fooled" for r in several.records] == fell.tolist()
        for first, all_of_them in zip(one.records, several.records, strict=True):
            passes = {"fooled": 1, "robust": 4, "wrong": 0}
            if first.outcome == "fooled":
                assert all_of_them == first
            elif all_of_them.outcome != "fooled":
                assert all_of_them.found.gradient_passes == passes[all_of_them.outcome]

    @pytest.mark.parametrize(
        "attack", [FGSM(0.05), replace(ATTACKS["pgd"], random_start=False), DeepFool()]
    )
    def test_what_is_not_random_starts_once(self, attack):
        one = evaluate_images(small.trained(), batches(), {"one": attack})
        several = evaluate_images(small.trained(), batches(), {"one": attack}, restarts=3)
        assert one.records == several.records

    def test_a_delta_outside_the_ball_is_no_success_in_it(self):
        attacks = {"pgd": ATTACKS["pgd"], "deepfool": DeepFool("linf")}
        anywhere = evaluate_images(small.trained(), batches(), attacks)
        inside = evaluate_images(small.trained(), batches(), attacks, within=LInfBall(0.05))
        assert anywhere.worst_case.count == 0
        assert 0 < inside.worst_case.count < inside.clean.count
        deepfool = inside.summaries["deepfool"]
        lengths = [r.found.linf for r in inside.of("deepfool") if r.outcome == "fooled"]
        assert deepfool.fooled.count == len(lengths) == deepfool.success.total
        assert deepfool.success.count == sum(length <= 0.05 for length in lengths)
        assert deepfool.linf == pytest.approx(sum(lengths) / len(lengths))
        assert inside.summaries["pgd"] == anywhere.summaries["pgd"]

    def test_a_target_is_reached_or_not_and_its_own_images_are_left_out(self):
        attack = {"pgd": PGD(LInfBall(0.08), 0.02, 5, loss="margin")}
        found = evaluate_images(small.trained(), batches(), attack, target=1)
        labels = torch.cat([y for _, y in batches()])
        assert [one.id for one in found.records] == (labels != 1).nonzero().flatten().tolist()
        assert 0 < found.summaries["pgd"].success.count < found.clean.count
        for one in found.records:
            assert (one.outcome == "fooled") == (one.attacked and one.adversarial_prediction == 1)

    def test_ids_are_those_of_the_data(self):
        numbers = list(range(100, 124))
        found = evaluate_images(small.trained(), batches(), [FGSM(0.05)], ids=numbers)
        assert [one.id for one in found.records] == numbers
        assert found.titles == ("fgsm",)
        with pytest.raises(UserError, match="more images than ids"):
            evaluate_images(small.trained(), batches(), [FGSM(0.05)], ids=numbers[:-1])

    def test_a_model_that_is_always_wrong_has_nothing_to_lose(self):
        x, y = small.images(6)
        found = evaluate_images(small.trained(), [(x, (y + 1) % 3)], ATTACKS)
        assert found.clean.count == found.worst_case.count == 0
        assert all(one.outcome == "wrong" for one in found.records)

    def test_a_model_without_numbers_is_refused(self):
        model = small.Changed(after=lambda logits: logits * torch.nan)
        with pytest.raises(UserError, match="inf or nan"):
            evaluate_images(model, batches(), {"fgsm": ATTACKS["fgsm"]})

    def test_the_model_is_left_as_it_was(self):
        model = nn.Sequential(small.trained(), nn.Dropout()).train()
        state = torch.random.get_rng_state()
        evaluate_images(model, batches(), ATTACKS, restarts=2)
        assert model.training
        assert torch.equal(torch.random.get_rng_state(), state)
        small.trained().eval()

    def test_a_function_is_a_model(self):
        found = evaluate_images(lambda x: small.trained()(x), batches(), {"fgsm": ATTACKS["fgsm"]})
        assert found.clean.count == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": []}, "at least one"),
        ({"attacks": ["pgd"]}, "objects such as PGD"),
        ({"epsilons": [-0.1]}, "finite and ≥ 0"),
        ({"epsilons": [float("nan")]}, "finite and ≥ 0"),
        ({"epsilons": ["a"]}, "finite and ≥ 0"),
        ({"epsilons": "0.1"}, "finite and ≥ 0"),
        ({"epsilons": 0.1}, "several"),
        ({"checked": FGSM(0.1)}, r"vary a PGD .* on 100"),
        ({"checked": ATTACKS["pgd"], "check_examples": 0}, "on 0: give"),
        ({"target": 3}, "The target 3 is no class: the model has 3"),
        ({"target": -1}, "The target -1 is no class"),
        ({"attacks": [FGSM(0.1), FGSM(0.2)]}, "one name"),
        ({"restarts": 0}, "at least one start"),
        ({"batches": []}, "no images to attack"),
        ({"batches": [(torch.full((2, 1, 8, 8), -1.0), torch.tensor([0, 1]))]}, "put inside the m"),
        ({"batches": [(torch.full((2, 1, 8, 8), 200.0), torch.tensor([0, 1]))]}, "divide by 255"),
        ({"batches": [(torch.rand(2, 1, 8, 8), torch.tensor([0, 9]))]}, "3 classes"),
        ({"batches": [(torch.rand(2, 1, 8, 8), torch.tensor([1, 1]))], "target": 1}, "no images"),
    ],
)
def test_what_cannot_be_attacked_is_refused_in_a_sentence(changes, message):
    given = {"batches": batches(), "attacks": ATTACKS} | changes
    with pytest.raises(UserError, match=message) as error:
        evaluate_images(small.trained(), given.pop("batches"), given.pop("attacks"), **given)
    assert str(error.value).endswith(".")


def test_radii_may_be_an_array_a_tensor_or_a_list_and_one_attack_needs_no_list():
    attack, radii = ATTACKS["pgd"], [0.125, 0.25]
    curves = [
        evaluate_images(small.trained(), batches(), attack, epsilons=given).curves
        for given in (radii, torch.tensor(radii), np.array(radii))
    ]
    assert list(curves[0][0].points) == [0.0, *radii]
    assert curves[0] == curves[1] == curves[2]


def test_a_sweep_towards_a_class_is_of_the_images_of_others():
    model, attack = small.trained(), ATTACKS["pgd"]
    found = evaluate_images(model, batches(), {"pgd": attack}, target=1, epsilons=[0.02, 0.05])
    (curve,) = found.curves
    swept = epsilon_sweep(attack, model, batches(), [0.02, 0.05], target=1)
    assert {e: swept.accuracy(e) for e in curve.points} == {
        e: share.value for e, share in curve.points.items()
    }
    assert 0 < swept.examples < 24


def test_an_empty_batch_holds_nothing_to_attack():
    x, y = batches()[0]
    swept = epsilon_sweep(ATTACKS["pgd"], small.trained(), [*batches(), (x[:0], y[:0])], [0.05])
    assert swept.examples == 24


@pytest.mark.parametrize(("epsilon", "tried"), [(0.3, "0.02, 0.05"), (-1.0, "0.02, 0.05")])
def test_a_radius_that_was_not_tried_is_named_beside_those_that_were(epsilon, tried):
    swept = epsilon_sweep(ATTACKS["fgsm"], small.trained(), batches(), [0.05, 0.02])
    with pytest.raises(UserError, match=f"was not tried; the radii are {tried}."):
        swept.accuracy(epsilon)


class _Killed(Attack):
    """An attack in a process that ends after so many batches."""

    def __init__(self, attack: Attack, after: int) -> None:
        self.attack, self.left = attack, after

    def __str__(self) -> str:
        return str(self.attack)

    name = property(lambda self: self.attack.name)
    ball = property(lambda self: getattr(self.attack, "ball", None))
    fingerprint = property(lambda self: described(self.attack))

    def run(self, rows):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self.attack.run(rows)


class TestContinued:
    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_a_killed_run_goes_on_and_repeats_nothing(self, found, tmp_path, after):
        killed = ATTACKS | {"pgd": _Killed(ATTACKS["pgd"], after)}
        with pytest.raises(KeyboardInterrupt):
            evaluate_images(small.trained(), batches(), killed, output_dir=tmp_path)
        path = tmp_path / "records.jsonl"
        before = path.read_bytes()
        path.write_bytes(before + b'{"id": 3, "attack": "pg')  # half a line
        again = evaluate_images(small.trained(), batches(), ATTACKS, output_dir=tmp_path)
        assert again.records == found.records
        assert set(before.splitlines()) <= set(path.read_bytes().splitlines())
        assert len(read_records(path)) == 3 * 24
        done = path.read_bytes()
        nothing = {name: _Killed(attack, 0) for name, attack in ATTACKS.items()}
        assert evaluate_images(
            small.trained(), batches(), nothing, output_dir=tmp_path
        ).records == (found.records)
        assert path.read_bytes() == done

    def test_attacks_and_images_may_be_added(self, found, tmp_path):
        one = {"pgd": ATTACKS["pgd"]}
        evaluate_images(small.trained(), batches()[:1], one, output_dir=tmp_path)
        again = evaluate_images(small.trained(), batches(), ATTACKS, output_dir=tmp_path)
        assert again.records == found.records
        assert (
            len(evaluate_images(small.trained(), batches(), one, output_dir=tmp_path).records) == 24
        )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"attacks": {"pgd": replace(ATTACKS["pgd"], steps=5)}}, "records of another pgd"),
            ({"restarts": 2}, "records of another"),
            ({"target": 1}, "its target is None, not 1"),
            ({"settings": {"data": "other"}}, "its data is '', not 'other'"),
            ({"model": Pixels(small.trained(), 0.5)}, "its model is"),
        ],
    )
    def test_another_run_is_refused(self, tmp_path, changes, message):
        given = {"model": Pixels(small.trained()), "attacks": ATTACKS} | changes
        evaluate_images(Pixels(small.trained()), batches()[:1], ATTACKS, output_dir=tmp_path)
        before = (tmp_path / "records.jsonl").read_bytes()
        with pytest.raises(UserError, match=message):
            evaluate_images(
                given.pop("model"), batches(), given.pop("attacks"), output_dir=tmp_path, **given
            )
        assert (tmp_path / "records.jsonl").read_bytes() == before

    def test_other_images_are_refused(self, tmp_path):
        evaluate_images(small.trained(), batches(), ATTACKS, output_dir=tmp_path)
        x, y = small.images(24, seed=5)
        with pytest.raises(UserError, match="records of other examples"):
            evaluate_images(small.trained(), [(x, y)], ATTACKS, output_dir=tmp_path)

    def test_two_processes_do_not_share_a_folder(self, tmp_path):
        with (
            FileLock(tmp_path / ".lock"),
            pytest.raises(UserError, match="another process"),
        ):
            evaluate_images(small.trained(), batches(), ATTACKS, output_dir=tmp_path)

    def test_a_folder_that_is_none_or_holds_other_records_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"cannot be (used|written)"):
            evaluate_images(small.trained(), batches(), ATTACKS, output_dir=tmp_path / "file")
        (tmp_path / "records.jsonl").write_text('{"id": 1}\n')
        with pytest.raises(UserError, match="unknown run"):
            evaluate_images(small.trained(), batches(), ATTACKS, output_dir=tmp_path)
        (tmp_path / "settings.json").write_text("{")
        with pytest.raises(UserError, match="damaged"):
            evaluate_images(small.trained(), batches(), ATTACKS, output_dir=tmp_path)


def evaluation(*records) -> Evaluation:
    return Evaluation(hashes={}, model=None, records=records)


class TestNumbers:
    @given(st.lists(st.sampled_from(["robust", "fooled", "wrong"]), min_size=1, max_size=30))
    def test_accuracy_under_attack_is_clean_times_what_stood(self, outcomes):
        records = [record(number, outcome=one) for number, one in enumerate(outcomes)]
        found = summarise(records)
        success = 0.0 if not found.success.total else found.success.value
        assert found.under_attack.value == pytest.approx(found.clean.value * (1 - success))

    def test_contradictions_are_refused(self):
        with pytest.raises(UserError, match="must be wrong"):
            summarise([record(prediction=2)])
        with pytest.raises(UserError, match="of one attack"):
            summarise([record(attack="a"), record(attack="b")])
        with pytest.raises(UserError, match="not run on the same examples"):
            evaluation(record(0, attack="a"), record(1, attack="b")).robust()
        with pytest.raises(UserError, match="no records"):
            evaluation().robust()

    def test_a_delta_on_the_surface_is_inside(self):
        one = record(outcome="fooled", l2=0.1 * (1 + 1e-7), linf=0.2)
        assert not is_robust(one, L2Ball(0.1))
        assert is_robust(one, L2Ball(0.09))
        assert is_robust(one, LInfBall(0.1))
        assert not is_robust(one)


class TestEvaluator:
    def test_scores_are_those_of_the_evaluation(self, found):
        normalised = small.Changed(before=lambda z: 0.25 * z + 0.5)
        for evaluate in (
            image_evaluator(batches(), ATTACKS["pgd"], mean=0.5, std=0.25),
            image_evaluator(batches(), ATTACKS["pgd"], lambda model: Pixels(model, 0.5, 0.25)),
        ):
            scores = evaluate(normalised)
            assert scores == {
                "clean_accuracy": found.clean.value,
                "robust_accuracy": found.summaries["pgd"].under_attack.value,
                "constant_answer": 0.0,
            }
            assert evaluate(normalised) == scores

    def test_a_constant_answer_is_told(self):
        constant = small.Changed(after=lambda logits: 0 * logits)
        scores = image_evaluator(batches(), ATTACKS["fgsm"])(constant)
        assert scores["constant_answer"] == 1.0

    def test_the_callback_takes_it(self):
        logged = []

        class Trainer:
            log = logged.append

        model = small.trained()
        callback = RobustnessCallback(Trainer(), image_evaluator(batches(), ATTACKS["fgsm"]))

        class State:
            global_step = 1

        metrics = {"eval_loss": 1.0}
        arguments = type("Arguments", (), {"process_index": 0})()
        callback.on_evaluate(arguments, State(), None, metrics=metrics, model=model)
        assert metrics["eval_robust_accuracy"] == logged[0]["eval_robust_accuracy"]
        assert metrics["eval_robust_accuracy"] < metrics["eval_clean_accuracy"]
