"""The GAN recipe: its initialisations, its game, its measures, and that it goes on where it was."""

import argparse
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import gan_digits as recipe
import gan_digits_report as report

each_initialisation = pytest.mark.parametrize("name", recipe.INITIALISATIONS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(name: str, seed: int = 0) -> list[torch.Tensor]:
    return [p.detach() for player in recipe.players(name, seed) for p in player.parameters()][::2]


def parameters(player: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in player.parameters()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@each_initialisation
def test_the_players_have_the_sizes_of_the_issue_and_begin_without_bias(name):
    g, d = recipe.players(name, 0)
    assert [tuple(w.shape) for w in weights(name)] == [(128, 100), (784, 128), (128, 784), (1, 128)]
    assert all((p == 0).all() for p in [*g.parameters(), *d.parameters()] if p.ndim == 1)
    images = g(recipe.latents(64, rng()))
    assert images.shape == (64, 784)
    assert (images > 0).all()
    assert (images < 1).all()
    assert d(images).shape == (64, 1)


@each_initialisation
def test_the_seed_decides_the_weights_and_the_global_stream_does_not(name):
    first = weights(name)
    torch.rand(3)
    assert same(first, weights(name))
    assert not same(first, weights(name, 1))


@pytest.mark.parametrize("name", ["xavier", "sparse_scaled"])
def test_xavier_and_its_sparse_twin_have_the_mean_square_2_over_fans(name):
    for weight in weights(name)[:3]:
        left = (weight != 0).double().mean().item()
        expected = 2 / sum(weight.shape)
        if name == "sparse_scaled":
            expected *= left / (1 - recipe.SPARSITY)  # the zeros of a unit are rounded up
        error = math.sqrt(2 / (left * weight.numel()))  # relative, of a variance of normals
        assert weight.square().mean().item() == pytest.approx(expected, rel=4 * error)


def test_orthogonal_weights_have_orthonormal_rows_or_columns():
    for weight in weights("orthogonal"):
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sparse", "sparse_scaled"])
def test_every_unit_of_a_sparse_layer_lacks_nine_tenths_of_its_inputs(name):
    for weight in weights(name):
        zeros = math.ceil(recipe.SPARSITY * weight.shape[1])
        assert (weight == 0).sum(1).tolist() == [zeros] * len(weight)
        if name == "sparse" and len(weight) > 1:  # what is left has PyTorch's default scale
            assert weight[weight != 0].std().item() == pytest.approx(0.01, rel=0.1)


def test_latents_fill_the_cube():
    z = recipe.latents(2000, rng())
    assert z.shape == (2000, 100)
    assert z.abs().max() <= 1
    assert z.var().item() == pytest.approx(1 / 3, rel=0.02)  # of U(−1, 1)


@pytest.mark.parametrize("logit", [-3.0, 0.0, 2.0])
def test_losses_are_softplus_of_the_logit_and_ln_2_at_0(logit):
    logits = torch.full((5, 1), logit)
    assert recipe.loss(logits, True).item() == pytest.approx(math.log1p(math.exp(-logit)))
    assert recipe.loss(logits, False).item() == pytest.approx(math.log1p(math.exp(logit)))


def game(name: str = "xavier"):
    g, d = recipe.players(name, 0)
    return g, d, *(torch.optim.Adam(player.parameters(), lr=1e-3) for player in (g, d))


def test_where_d_knows_nothing_both_losses_are_ln_2_and_it_is_right_on_nothing():
    g, d, of_g, of_d = game()
    nn.init.zeros_(d[2].weight)
    loss_g = recipe.step_generator(g, d, of_g, recipe.latents(8, rng()))
    losses = recipe.step_discriminator(g, d, of_d, torch.rand(8, 784), recipe.latents(8, rng()))
    assert (loss_g, *losses) == pytest.approx((math.log(2), math.log(2), 0, 0))


def test_a_step_of_one_player_leaves_the_other_and_its_gradients_alone():
    g, d, of_g, of_d = game()
    z, real = recipe.latents(8, rng()), torch.rand(8, 784)
    before_g, before_d = parameters(g), parameters(d)
    recipe.step_discriminator(g, d, of_d, real, z)
    assert same(parameters(g), before_g)
    assert not same(parameters(d), before_d)
    assert all(p.grad is None for p in g.parameters())
    before_d = parameters(d)
    gradients = [p.grad.clone() for p in d.parameters()]
    recipe.step_generator(g, d, of_g, z)
    assert same(parameters(d), before_d)
    assert not same(parameters(g), before_g)
    assert same([p.grad for p in d.parameters()], gradients)


def judge(features: torch.Tensor) -> report.Judge:
    """Features are the pixels, and logits are the features."""
    return report.Judge(nn.Identity(), nn.Identity(), *report.moments(features))


def test_frechet_is_0_on_the_reference_and_the_squared_shift_beside_it():
    images = torch.randn(400, 10, generator=rng())
    assert judge(images).measure(images)["frechet"] == pytest.approx(0, abs=1e-4)
    shift = torch.arange(10) / 10
    assert judge(images).measure(images + shift)["frechet"] == pytest.approx(2.85, rel=1e-4)
    # (σ − 2σ)² summed over the axes is the trace of the covariance, and the mean doubles too.
    mean, covariance = report.moments(images)
    expected = (covariance.trace() + mean.square().sum()).item()
    assert judge(images).measure(2 * images)["frechet"] == pytest.approx(expected, rel=1e-4)


def test_entropy_and_confidence_at_their_ends():
    digits = torch.eye(10).repeat(3, 1)
    ends = [(20 * digits, math.log(10), 1), (digits, math.log(10), 0), (20 * digits[[3] * 9], 0, 1)]
    for images, entropy, confident in ends:
        measured = judge(digits).measure(images)
        assert (measured["entropy"], measured["confident"]) == pytest.approx((entropy, confident))


def test_mixed_pixels_keep_each_pixel_s_values():
    images = torch.arange(784) % 250 + torch.arange(5)[:, None]  # in column j: j % 250 + 0 … 4
    mixed = recipe.mixed_pixels(images, 300)
    assert mixed.shape == (300, 784)
    assert (mixed.sort(0).values[[0, -1]] == images[[0, -1]]).all()
    assert len({tuple(row) for row in (mixed - images[0]).tolist()}) == 300


def test_samples_survive_as_text():
    images = torch.rand(3, 784, generator=rng())
    assert torch.equal(report.unpacked(report.packed(images)).flatten(1), (images * 255).round())


def test_smooth_curves_are_means_over_blocks():
    trace = torch.arange(1000.0)[:, None].expand(-1, 4)
    assert torch.equal(report.smooth(trace)[:, 0], torch.arange(100) * 10 + 4.5)
    assert torch.equal(report.smooth(trace[:3]), trace[:3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty "digits" of noise, in MNIST's files."""
    for split in ("train", "t10k"):
        pixels = torch.randint(256, (40, 784), generator=rng()).flatten().tolist()
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (40, 28, 28))
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(header + bytes(pixels))
        labels = b"\0\0\x08\x01\0\0\0\x28" + bytes(range(10)) * 4
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def run(folder: Path, *flags: str, names: str = "xavier sparse", seeds: str = "0 1") -> None:
    given = ["--data_dir", str(folder), "--output_dir", str(folder / "runs")]
    given += ["--initialisations", *names.split(), "--seeds", *seeds.split()]
    recipe.main([*given, "--steps", "12", "--batch_size", "4", *flags])


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, int]]:
    """The runs that were made."""
    made, train = [], recipe.train
    monkeypatch.setattr(recipe, "train", lambda *a: made.append(a[:2]) or train(*a))
    monkeypatch.setattr(recipe, "PROBED", 40)
    return made


def test_only_a_lost_or_changed_run_is_made_again(folder, trained, monkeypatch):
    monkeypatch.setattr(report, "draw_samples", lambda *_: None)
    monkeypatch.setattr(report, "draw_losses", lambda *_: None)
    run(folder)
    assert trained == [("xavier", 0), ("sparse", 0), ("xavier", 1), ("sparse", 1)]
    kept = folder / "runs" / "xavier-seed1.json"
    first = json.loads(kept.read_text())
    page = folder / "runs" / "gan_digits.md"
    page.write_text(page.read_text() + "\n## What came out\n\nLittle.\n")
    trained.clear()
    run(folder)
    assert trained == []
    assert page.read_text().count("\n## What came out\n\nLittle.\n") == 1
    kept.unlink()
    run(folder)
    assert trained == [("xavier", 1)]
    again = json.loads(kept.read_text())
    assert again | {"seconds": 0} == first | {"seconds": 0}  # the seed decides it all
    run(folder, "--learning_rate", "0.01", names="xavier", seeds="1")
    assert trained == [("xavier", 1)] * 2


def test_a_run_looks_at_its_checkpoints_and_the_page_shows_what_there_is(folder, trained):
    pytest.importorskip("matplotlib").use("agg")
    run(folder, "--steps", "80", "--results", str(folder / "page"), names="orthogonal", seeds="3")
    record = json.loads((folder / "runs" / "orthogonal-seed3.json").read_text())
    assert list(record["measures"]) == ["0", "1", "4", "16", "80"]
    assert len(record["trace"]) == 80 / recipe.TRACE_EVERY
    page = (folder / "page" / "gan_digits.md").read_text()
    assert "| orthogonal | 1 |" in page
    assert str(folder) not in page
    for figure in ("samples.png", "losses.svg"):
        assert f"]({figure})" in page
        assert (folder / "page" / figure).exists()


def test_a_run_cut_short_while_it_is_saved_is_no_finished_run(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    path, args = tmp_path / "xavier-seed0.json", argparse.Namespace()
    with pytest.raises(KeyboardInterrupt):
        recipe.save(path, {"settings": {}})
    assert recipe.finished(path, args) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--data_dir", "nowhere"], "nowhere has no file train-"), (["--steps", "0"], "least 1")],
)
def test_what_cannot_be_run_is_said_in_a_sentence(folder, capsys, flags, message):
    with pytest.raises(SystemExit):
        run(folder, *flags)
    assert message in capsys.readouterr().err
