"""ε–accuracy curves: counted by hand, against numpy's integral, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_measured import measured
from point_cases import CASES

from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall
from nlp_adv.robustness import embedding_pgd, epsilon_sweep, evaluate_images
from nlp_adv.robustness.curve import accuracy_curve
from nlp_adv.robustness.statistics import Share

RADII = (0.1, 0.2, 0.4)
# Of 10: one is wrong, and 2, 3 and 1 are fooled at the three radii: 0.9, 0.7, 0.4, 0.3.
FOOLED = [0.0] + [0.1] * 2 + [0.2] * 3 + [0.4] + [math.inf] * 3


def curve(fooled=FOOLED, radii=RADII, **options):
    settings = {
        key: options.pop(key) for key in ("unit_length", "relative_length") & options.keys()
    }
    return accuracy_curve(measured(fooled, embedding_pgd(tuple(radii)), **settings), **options)


def test_points_counted_by_hand():
    points = curve(radii=RADII[::-1]).points
    assert [point.epsilon for point in points] == [0.0, *RADII]
    assert [point.accuracy for point in points] == pytest.approx([0.9, 0.7, 0.4, 0.3])


def test_zero_among_the_radii_is_no_second_point():
    assert [point.epsilon for point in curve(radii=(0.0, *RADII)).points] == [0.0, *RADII]


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_intervals_are_wilsons(confidence):
    """The roots p of (p̂ − p)² = z²·p(1 − p)/n."""
    z = {0.95: 1.959963984540054, 0.99: 2.5758293035489004}[confidence]
    for point in curve(confidence=confidence).points:
        share, n = point.accuracy, 10
        roots = np.roots([1 + z * z / n, -(2 * share + z * z / n), share * share])
        assert point.interval == pytest.approx(sorted(roots.real))


def test_area_by_hand():
    # (0.9 + 0.7)/2·0.1 + (0.7 + 0.4)/2·0.1 + (0.4 + 0.3)/2·0.2 = 0.08 + 0.055 + 0.07, over 0.4
    assert curve().area == pytest.approx(0.205 / 0.4)


def test_half_point_by_hand():
    # 0.45 lies between 0.7 at 0.1 and 0.4 at 0.2, at 25/30 of the way
    assert curve().half_point == pytest.approx(0.1 + 0.1 * 25 / 30)


@pytest.mark.parametrize(
    ("fooled", "half"),
    [
        ([0.1, math.inf], 0.1),  # exactly half, at a radius
        ([0.1, 0.1], 0.05),  # all gone: half of it half-way
        ([0.4, math.inf, math.inf], math.inf),
        ([math.inf] * 3, math.inf),
        ([0.0, 0.0], 0.0),
        ([0.4, 0.4], 0.3),  # flat at first
    ],
)
def test_half_point_at_the_ends(fooled, half):
    assert curve(fooled).half_point == pytest.approx(half)


@pytest.mark.parametrize(("fooled", "area"), [([math.inf] * 4, 1.0), ([0.0] * 4, 0.0)])
def test_area_at_the_ends(fooled, area):
    assert curve(fooled).area == area


def test_without_a_radius_above_zero_area_is_clean_accuracy():
    alone = curve([0.0, math.inf, math.inf, math.inf], radii=(0.0,))
    assert alone.area == 0.75
    assert alone.half_point == math.inf


def test_units():
    shown = {"unit_length": 3.0, "relative_length": 12.0}
    absolute = curve(unit="absolute", **shown)
    relative = curve(unit="relative", **shown)
    assert [p.epsilon for p in absolute.points] == pytest.approx([0, 0.3, 0.6, 1.2])
    assert [p.epsilon for p in relative.points] == pytest.approx([0, 0.025, 0.05, 0.1])
    assert absolute.area == pytest.approx(curve().area)
    assert absolute.half_point == pytest.approx(3 * curve().half_point)


radii = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6, unique=True)


@given(radii=radii, data=st.data())
def test_what_always_holds(radii, data):
    where = st.sampled_from([0.0, *radii, math.inf])
    fooled = data.draw(st.lists(where, min_size=1, max_size=30))
    found = curve(fooled, radii)
    heights = [point.accuracy for point in found.points]
    assert heights == sorted(heights, reverse=True)
    assert all(low <= p.accuracy <= high for p in found.points for low, high in [p.interval])
    area = np.trapezoid(heights, [p.epsilon for p in found.points]) / max(radii)
    assert found.area == pytest.approx(area)
    assert heights[-1] - 1e-12 <= found.area <= heights[0] + 1e-12
    if 0 < found.half_point < math.inf:
        at = np.interp(found.half_point, [p.epsilon for p in found.points], heights)
        assert at == pytest.approx(heights[0] / 2)
    assert (found.half_point == math.inf) == (heights[-1] > heights[0] / 2)


def test_a_sweep_begins_without_attack():
    """What a ladder leaves of images at some radii, as a curve."""
    case = CASES[1]
    sweep = epsilon_sweep(case.pgd(), case.model(), case.batches, [0.06, 0.0])
    found = accuracy_curve(sweep)
    first, last = found.points
    assert (first.epsilon, last.epsilon) == (0.0, 0.06)
    assert first.share == Share(int(sweep.right.sum()), sweep.examples)
    assert last.share == Share(int((sweep.right & ~sweep.fooled[:, 1]).sum()), sweep.examples)
    low, high = last.interval
    assert low < last.accuracy < high
    assert found.area == pytest.approx((first.accuracy + last.accuracy) / 2)


def test_an_evaluation_draws_the_curve_that_a_sweep_finds(tmp_path):
    """Of an attack in a ball by running it, of the smallest δ by its length; kept as records."""
    case = CASES[1]
    attacks, radii = {"pgd": case.pgd(), "deepfool": case.attacks()["deepfool"]}, case.radii
    settings = {"within": LInfBall(0.1), "epsilons": radii[::-1], "output_dir": tmp_path}
    found = evaluate_images(case.model(), case.batches, attacks, **settings)
    assert [curve.title for curve in found.curves] == ["pgd", "deepfool"]
    for curve, attack in zip(found.curves, attacks.values(), strict=True):
        sweep = epsilon_sweep(attack, case.model(), case.batches, radii)
        assert curve.accuracy == accuracy_curve(sweep)
        assert curve.scale == 255
    assert {record.attack for record in found.records} == set(attacks)
    before = (tmp_path / "records.jsonl").read_bytes()
    again = evaluate_images(case.model(), case.batches, attacks, **settings)
    assert again.curves == found.curves
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_the_smallest_delta_needs_a_ball_for_its_curve():
    case = CASES[1]
    with pytest.raises(UserError, match="needs the ball"):
        evaluate_images(case.model(), case.batches, [case.attacks()["deepfool"]], epsilons=[0.1])


@pytest.mark.fault("U3")
@pytest.mark.parametrize("radii", [[], [-0.1], [math.inf], [math.nan]])
def test_a_sweep_needs_radii(radii):
    with pytest.raises(UserError, match="radii that are finite"):
        epsilon_sweep(CASES[1].pgd(), CASES[1].model(), CASES[1].batches, radii)


def test_a_sweep_needs_images_in_the_range_of_pixels():
    case = CASES[1]
    (x, y), *_ = case.batches
    for batches, epsilon, message in (
        ([], 0.1, "the data is empty"),
        ([(2 * x - 1, y)], 0.1, r"Pixels\(model, mean, std\)"),
        (case.batches, 8.0, "grey levels"),
    ):
        with pytest.raises(UserError, match=message):
            epsilon_sweep(case.pgd(), case.model(), batches, [epsilon])
