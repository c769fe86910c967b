"""The mask of δ belongs to the ids that the perturbed module works on, and to nothing else."""

import pytest
import torch
import transformers as hf
from models import batch, tiny
from torch import Tensor, nn

from nlp_adv import EmbeddingSite, LayerSite, UserError, objective
from nlp_adv.sites.embeddings import find_embedding

SEQ2SEQ = {"vocab_size": 60, "d_model": 8, "pad_token_id": 0, "decoder_start_token_id": 3}
BART = SEQ2SEQ | {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
BART |= {"max_position_embeddings": 32, "eos_token_id": 2, "dropout": 0.0}
T5 = SEQ2SEQ | {"d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}

SOURCE = torch.tensor([[4, 5, 6, 0], [4, 5, 6, 7]])
LABELS = torch.tensor([[7, 8, 2, -100, -100], [7, 8, 9, 10, 2]])
OF_SOURCE, OF_TARGET = [[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def made(cls: str, **config) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(hf, cls)
        return model(model.config_class(**config)).train()


def seq2seq(cls: str) -> tuple[nn.Module, dict[str, Tensor]]:
    model = made(cls, **(T5 if "T5" in cls else BART))
    return model, {"input_ids": SOURCE, "attention_mask": (SOURCE != 0).long(), "labels": LABELS}


def free(of) -> list[list[int]]:
    """(B, T): where δ may move."""
    return of.mask.amax(-1).int().tolist()


DECODERS = {
    "BartForConditionalGeneration": "model.decoder",
    "T5ForConditionalGeneration": "decoder",
}


@pytest.mark.fault("T3")
@pytest.mark.parametrize("given", ["labels", "ids", "mask"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_module_of_the_decoder_has_the_mask_of_its_own_ids(name, given):
    """Of the labels, of ids that a collator made from them, or of a mask that was given."""
    model, full = seq2seq(name)
    if given != "labels":
        full["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=LABELS)
    want = OF_TARGET
    if given == "mask":
        want = [[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
        full["decoder_attention_mask"] = torch.tensor(want)
    block = "block" if "T5" in name else "layers"
    for site in (
        EmbeddingSite(f"{DECODERS[name]}.embed_tokens"),
        LayerSite(f"{DECODERS[name]}.{block}.0"),
    ):
        assert free(objective(model, full, site, seed=0)) == want
    assert free(objective(model, full, seed=0)) == OF_SOURCE


@pytest.mark.fault("T3")
def test_a_classifier_feeds_its_decoder_the_source():
    """Shifted by one: a row has one more real token."""
    model, full = seq2seq("BartForSequenceClassification")
    ids = torch.tensor([[4, 5, 2, 0], [4, 5, 6, 2]])
    full |= {"input_ids": ids, "labels": torch.tensor([0, 1])}
    got = objective(model, full, LayerSite("model.decoder.layers.0"), seed=0)
    assert free(got) == [[1, 1, 1, 1], [1, 1, 1, 1]]
    full["input_ids"] = torch.tensor([[5, 2, 0, 0], [4, 5, 6, 2]])
    got = objective(model, full, LayerSite("model.decoder.layers.0"), seed=0)
    assert free(got) == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_encoder_and_decoder_together_have_a_ball_and_a_mask_each():
    model, full = seq2seq("BartForConditionalGeneration")
    site = LayerSite("model.encoder.layers.0", "model.decoder.layers.0")
    both = objective(model, full, site, seed=0)
    assert free(both) == [a + b for a, b in zip(OF_SOURCE, OF_TARGET, strict=True)]
    assert both.segments.index.tolist() == [[0] * 4 + [1] * 5] * 2
    delta = torch.randn(both.x.shape, generator=torch.Generator().manual_seed(0)) * both.mask
    # Each share alone is what a site of that module alone does with it.
    for place, name in ((slice(0, 4), "encoder"), (slice(4, 9), "decoder")):
        only = torch.zeros_like(delta)
        only[:, place] = delta[:, place]
        alone = objective(model, full, LayerSite(f"model.{name}.layers.0"), seed=0)
        with torch.no_grad():
            got, want = both.forward(only).logits, alone.forward(delta[:, place]).logits
        torch.testing.assert_close(got, want)
        assert not torch.equal(got, model(**full).logits)


@pytest.mark.fault("T4")
@pytest.mark.parametrize("table", ["token_type", "position"])
def test_special_ids_are_compared_with_the_words(table):
    full = batch("bert")
    special = full["input_ids"][:, 0].tolist()
    site = EmbeddingSite(f"bert.embeddings.{table}_embeddings")
    got = objective(tiny("bert"), full, site, special_ids=special, seed=0)
    want = (full["attention_mask"] == 1) & ~torch.isin(full["input_ids"], torch.tensor(special))
    assert free(got) == want.int().tolist()
    assert want.any()


@pytest.mark.fault("T4")
def test_a_batch_in_which_no_token_may_move_is_refused():
    full = batch("bert")
    with pytest.raises(UserError, match=r"No token of a batch may move.*special tokens"):
        objective(tiny("bert"), full, special_ids=range(60), seed=0)


@pytest.mark.fault("T23")
@pytest.mark.parametrize(
    ("architecture", "name"),
    [("bert", "bert.embeddings.position_embeddings"), ("gpt2", "transformer.wpe")],
)
def test_position_embeddings_have_a_delta_for_each_example(architecture, name):
    """Their output is (1, T, D), one for all examples."""
    model, full = tiny(architecture), batch(architecture)
    places = objective(model, full, EmbeddingSite(name), seed=0)
    words = objective(model, full, seed=0)
    assert places.x.shape == words.x.shape
    assert torch.equal(places.mask, words.mask)
    # The two are added up, so the same δ on either is the same model.
    delta = torch.randn(words.x.shape, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(places.forward(delta).logits, words.forward(delta).logits)


@pytest.mark.fault("T24")
def test_a_hash_shard_is_neither_suggested_nor_accepted():
    model = made(
        "CanineForSequenceClassification",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_hash_functions=4,
        num_hash_buckets=32,
    )
    with pytest.raises(UserError, match=r"for example 'canine.char_embeddings'") as refused:
        find_embedding(model)
    assert "HashBucket" not in str(refused.value)
    with pytest.raises(UserError, match=r"for example '0.canine.char_embeddings'"):
        find_embedding(nn.Sequential(model))  # names are those in the model given
    with pytest.raises(
        UserError, match=r"name the module that joins them, 'canine.char_embeddings"
    ):
        find_embedding(model, "canine.char_embeddings.HashBucketCodepointEmbedder_2")
    ids = torch.randint(1, 900, (2, 32), generator=torch.Generator().manual_seed(0))
    full = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([0, 1]),
    }
    full["attention_mask"][0, 20:] = 0
    got = objective(model, full, EmbeddingSite("canine.char_embeddings"), seed=0)
    assert free(got) == full["attention_mask"].tolist()
    assert got.gradient(torch.zeros_like(got.mask)).abs().sum() > 0


class Sees(nn.Module):
    """A model that writes an image's features over its placeholders, as LLaVA does."""

    def __init__(self, **config):
        super().__init__()
        self.config = hf.PretrainedConfig(pad_token_id=0, **config)
        self.words, self.head = nn.Embedding(60, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask, labels):
        hidden = self.words(input_ids)
        hidden = torch.where((input_ids == 50)[..., None], 0.5, hidden)
        logits = self.head(hidden.sum(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.fault("T20")
@pytest.mark.parametrize(
    "key", ["image_token_id", "image_token_index", "video_token_id", "audio_token_id"]
)
def test_placeholders_do_not_count(key):
    ids = torch.tensor([[4, 50, 50, 5], [50, 6, 7, 0]])
    full = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([0, 1])}
    got = objective(Sees(**{key: 50}), full, EmbeddingSite("words"), seed=0)
    assert free(got) == [[1, 0, 0, 1], [0, 1, 1, 0]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_either_side_is_masked(side):
    full = batch("llama")
    if side == "left":
        full = {k: v.flip(1) if v.ndim == 2 else v for k, v in full.items()}
    for site in (EmbeddingSite(), LayerSite("model.layers.0")):
        got = objective(tiny("llama"), full, site, seed=0)
        assert free(got) == full["attention_mask"].tolist()


# --- the user's own


@pytest.mark.parametrize("site", [EmbeddingSite, lambda: LayerSite("bert.encoder.layer.0")])
def test_the_users_mask_multiplies_the_sites(site):
    model, full = tiny("bert"), batch("bert")
    own = (torch.arange(7) % 2).expand(3, 7)
    want = (own * full["attention_mask"]).tolist()
    by_argument = objective(model, full, site(), mask=own, seed=0)
    by_column = objective(model, full | {"adv_mask": own}, site(), seed=0)
    assert free(by_argument) == free(by_column) == want
    by_column.gradient(torch.zeros_like(by_column.mask))  # the model does not see the column


def test_a_mask_that_fits_or_leaves_nothing_is_refused_in_a_sentence():
    model, full = tiny("bert"), batch("bert")
    with pytest.raises(UserError, match=r"mask \(3, 6\) does not fit the tokens .* \(3, 7\)"):
        objective(model, full, mask=torch.ones(3, 6), seed=0)
    with pytest.raises(UserError, match=r"No token of a batch may move.*adv_mask"):
        objective(model, full, mask=1 - full["attention_mask"], seed=0)
    with pytest.raises(UserError, match=r"tensor .*, not a list"):
        objective(model, full | {"adv_mask": [[1] * 7] * 3}, seed=0)


def test_one_mask_is_that_of_each_of_several_modules():
    names = ("bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings")
    full, own = batch("bert"), (torch.arange(7) < 2).int().expand(3, 7)
    got = objective(tiny("bert"), full, EmbeddingSite(*names), mask=own, seed=0)
    assert free(got) == [row + row for row in own.tolist()]


def test_pixels_may_have_a_mask():
    from nlp_adv import PixelSite

    z = torch.zeros(2, 3, 4, 4)
    own = torch.zeros(2, 4, 4)
    own[:, 1] = 1
    entry = PixelSite(torch.tensor([0.5]), torch.tensor([0.5])).enter(
        nn.Linear(1, 1), {"pixel_values": z}, mask=own
    )
    assert torch.equal(entry.mask, own[:, None].expand(2, 3, 4, 4))
