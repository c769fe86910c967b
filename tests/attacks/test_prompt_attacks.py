"""Attacks on prompts: judges, the model as a classifier, GCG."""

import math
import random
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nlp_adv.attacks import PGD
from nlp_adv.attacks.chat.answering import Answering
from nlp_adv.attacks.chat.gcg import GCG, _Suffix
from nlp_adv.attacks.chat.judge import Judge, refusals_of
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.subject import Subject
from nlp_adv.data.chat_demo import FORBIDDEN as THINGS
from nlp_adv.data.chat_demo import REFUSALS, chat_model, chat_tokenizer, requests
from nlp_adv.data.pairs import PairCollator
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite

TOKENIZER = chat_tokenizer()
PROMPTED = Prompted(TOKENIZER, PairCollator(TOKENIZER, max_length=64))
ROWS = requests(THINGS, 6, seed=1)
PROMPTS, TARGETS = [one["prompt"] for one in ROWS], [one["target"] for one in ROWS]


@pytest.fixture(scope="module")
def model():
    return chat_model(TOKENIZER, seed=1).eval()


@pytest.fixture(scope="module")
def batch():
    return PROMPTED.batch(PROMPTS, TARGETS)


def logits_of(model, batch):
    with torch.no_grad():
        return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize("kind", ["exact", "begins"])
def test_exact_is_greedy_generation(model, kind):
    """m > 0 exactly where argmax decoding, one token after the other, gives the target."""
    ids = torch.tensor([TOKENIZER("<user> how do i fix a drum ? <assistant>")["input_ids"]])
    for _ in range(5):
        with torch.no_grad():
            new = model(ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, new], 1)
    answer = torch.zeros_like(ids)
    answer[:, -5:] = 1
    judge, openers = Judge(kind, REFUSALS), torch.tensor([7])
    assert judge.margin(model(ids).logits, ids, answer, openers) > 0
    for place in range(1, 6):
        other = ids.clone()
        other[0, -place] = (ids[0, -place] + 1) % len(TOKENIZER)
        assert judge.margin(model(other).logits, other, answer, openers) < 0


def test_target_is_the_mean_log_probability(model, batch):
    logits = logits_of(model, batch)
    judge = Judge("target", REFUSALS, threshold=0.25)
    answer = batch["completion_mask"]
    found = judge.margin(logits, batch["input_ids"], answer, torch.tensor([7]))
    for row in range(len(found)):
        places = answer[row].nonzero().flatten().tolist()
        each = [
            logits[row, t - 1].double().log_softmax(0)[batch["input_ids"][row, t]] for t in places
        ]
        assert found[row].item() == pytest.approx(
            sum(each).item() / len(each) - math.log(0.25), abs=1e-5
        )


def test_of_a_beginning_the_end_is_not_judged(batch):
    """An attacker's "Sure, here is" goes on; a whole answer ends where the target does."""
    open_ended = replace(PROMPTED, ended=False).batch(PROMPTS, TARGETS)
    for row, target in enumerate(TARGETS):
        kinds = {"whole": batch, "beginning": open_ended}
        judged = {
            name: one["input_ids"][row][one["completion_mask"][row] == 1].tolist()
            for name, one in kinds.items()
        }
        assert judged["beginning"] == TOKENIZER(target, add_special_tokens=False)["input_ids"]
        assert judged["whole"] == [*judged["beginning"], TOKENIZER.eos_token_id]


def test_refusal_is_the_mass_of_openers(model, batch):
    logits, answer = logits_of(model, batch), batch["completion_mask"]
    judge = Judge("refusal", ("sorry", "the"))
    openers = judge.openers(TOKENIZER)
    assert sorted(TOKENIZER.convert_ids_to_tokens(openers.tolist())) == ["sorry", "the"]
    found = judge.margin(logits, batch["input_ids"], answer, openers)
    for row in range(len(found)):
        first = int(answer[row].nonzero()[0])
        mass = logits[row, first - 1].double().softmax(0)[openers].sum()
        assert found[row].item() == pytest.approx(((1 - mass) / mass).log().item(), abs=1e-4)


def test_exact_climbs_the_mean_log_probability(model, batch):
    answer, ids = batch["completion_mask"], batch["input_ids"]
    logits = logits_of(model, batch)
    gradients = []
    for kind in ("exact", "target"):
        leaf = logits.clone().requires_grad_()
        Judge(kind, REFUSALS).margin(leaf, ids, answer, torch.tensor([7])).sum().backward()
        gradients.append(leaf.grad)
    assert torch.allclose(*gradients)


def test_padding_changes_no_judgement(model, batch):
    answering = Answering(model, Judge("exact", REFUSALS), TOKENIZER)
    names = ("input_ids", "attention_mask", "completion_mask")
    together = answering(**{name: batch[name] for name in names}).logits
    for row in range(len(PROMPTS)):
        alone = PROMPTED.batch(PROMPTS[row : row + 1], TARGETS[row : row + 1])
        found = answering(**{name: alone[name] for name in names}).logits
        assert torch.allclose(found[0], together[row], atol=1e-5)


@pytest.mark.parametrize("site", [EmbeddingSite(), LayerSite("1"), LayerSite("0", "2")])
def test_pgd_moves_the_prompt_alone_and_climbs(model, site):
    answering = Answering(model, Judge("target", REFUSALS), TOKENIZER)
    batch = PROMPTED.batch(PROMPTS, TARGETS)
    attack = PGD(L2Ball(0.2, "token"), 0.4, 5, False, loss="margin", unit="relative", shorten=True)
    found = attack(answering, batch, site=site)
    mask = batch["adv_mask"].repeat(1, found.delta.shape[1] // batch["adv_mask"].shape[1])
    assert (found.delta[mask == 0] == 0).all()
    assert (found.delta[mask == 1].norm(dim=-1) > 0).any()
    assert (found.losses[-1] > found.losses[0]).all()


def test_left_padding_generates_what_each_prompt_gets_alone(model):
    prompts = [*PROMPTS, "drum ?"]
    together = PROMPTED.answers(model, prompts, 6)
    assert together == [PROMPTED.answers(model, [one], 6)[0] for one in prompts]


def test_suffix_moves_its_own_tokens(model):
    batch = PROMPTED.suffixed(PROMPTS, TARGETS, 4)
    assert (batch["adv_mask"].sum(1) == 4).all()
    for row in range(len(PROMPTS)):
        moved = batch["input_ids"][row][batch["adv_mask"][row] == 1]
        assert TOKENIZER.decode(moved) == "the the the the"


def gcg_on(model, attack, judge, prompt=0):
    answering = Answering(model, judge, TOKENIZER)
    searching = Answering(model, replace(judge, kind="target"), TOKENIZER)
    subject = Subject(searching, EmbeddingSite())

    def batches(texts):
        return PROMPTED.batch(texts, [TARGETS[prompt]] * len(texts))

    with subject.opened(batches(PROMPTS[:1])):
        return attack.run(subject, answering, batches, PROMPTED, PROMPTS[prompt]), batches


def test_gcg_is_a_text_and_never_gets_worse(model):
    judge, values = Judge("target", REFUSALS, threshold=0.999), []
    for steps in (1, 3, 6):
        found, batches = gcg_on(model, GCG(4, steps, 16, 16, seed=3), judge)
        again = Answering(model, judge, TOKENIZER)
        names = ("input_ids", "attention_mask", "completion_mask")
        batch = batches([found.text])
        with torch.no_grad():
            logits = again(**{name: batch[name] for name in names}).logits[0]
        assert torch.allclose(logits, found.logits)  # of the text, tokenized from the start
        assert found.text.startswith(PROMPTS[0] + " ")
        assert len(found.text.split()) == len(PROMPTS[0].split()) + 4
        assert not set(found.text.split()) & set(TOKENIZER.all_special_tokens)
        assert found.gradient_passes == steps
        values.append(found.logits[1].item())
    filler = batches([f"{PROMPTS[0]} the the the the"])
    with torch.no_grad():
        start = again(**{name: filler[name] for name in names}).logits[0, 1].item()
    assert start < values[0] <= values[1] <= values[2]
    assert values[0] < values[2]


def byte_tokenizer():
    """Pieces of several letters, of which one text has many spellings."""
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    special = ["<user>", "<assistant>", "<end>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer.initial_alphabet = alphabet
    whole.train_from_iterator([*PROMPTS, *TARGETS, "! ! ! the x"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="<pad>", eos_token="<end>", model_max_length=256
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[:2]})
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}<end>"
        "{% else %}<user>{{ m['content'] | trim }}<assistant>{% endif %}{% endfor %}"
    )
    return tokenizer


def test_candidates_are_kept_as_one_by_one():
    """In a tokenizer of pieces, the same suffixes and the same batch as of each text by itself."""
    tokenizer = byte_tokenizer()
    prompted = Prompted(tokenizer, PairCollator(tokenizer, max_length=256))

    def batches(texts):
        return prompted.batch(texts, [TARGETS[0]] * len(texts))

    at = _Suffix.begun(batches, prompted, PROMPTS[0], 4)
    draws, every = random.Random(0), list(range(4, len(tokenizer) - 4))
    tried = [at.swapped(draws, [every] * 4) for _ in range(300)]
    tried += [at.moved(one).swapped(draws, [every] * 4) for one in tried[:50] if at.moved(one)]
    batch, kept = at.tokenized(tried)
    alone = []
    for ids in dict.fromkeys(tried):
        whole = at.batch["input_ids"][0].tolist()
        whole[at.begin : at.begin + 4] = ids
        text = f"{PROMPTS[0]}{tokenizer.decode(list(ids))}"
        text = (
            text if text[len(PROMPTS[0])].isspace() else f"{PROMPTS[0]} {text[len(PROMPTS[0]) :]}"
        )
        if batches([text])["input_ids"][0].tolist() == whole:
            alone.append((ids, text))
    assert kept == [ids for ids, _ in alone]
    assert 10 < len(kept) < len(tried) - 10
    expected = batches([text for _, text in alone])
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_template_that_reads_prompts_is_no_success(model):
    """Where the answer would be written otherwise behind a candidate, it is not taken."""
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }} <end>",
        "{% if messages[0]['content'].endswith('lamp') %}very {% endif %}"
        "{{ message['content'] }} <end>",
    )
    prompted = Prompted(tokenizer, PairCollator(tokenizer, max_length=64))

    def batches(texts):
        return prompted.batch(texts, [TARGETS[0]] * len(texts))

    at = _Suffix.begun(batches, prompted, PROMPTS[0], 3)
    new = tokenizer.convert_tokens_to_ids("lamp")
    assert at.moved((*at.ids[:2], new)) is None
    assert at.moved((new, *at.ids[1:])) is not None


def test_gcg_belongs_to_prompt_and_seed(model):
    judge = Judge("target", REFUSALS, threshold=0.999)
    texts = [gcg_on(model, GCG(4, 2, 16, 16, seed=s), judge)[0].text for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Judge("exact"), "needs what refusals begin with"),
        (lambda: Judge("exact", ("  ",)), "needs what refusals begin with"),
        (lambda: Judge("best", REFUSALS), "no judge 'best'"),
        (lambda: Judge("target", REFUSALS, 1.0), "is a probability"),
        (lambda: Judge("exact", ("zounds",)).openers(TOKENIZER), "begins with"),
        (lambda: GCG(steps=0), "at least 1"),
        (lambda: PROMPTED.batch(PROMPTS[:1], ["sure"], given=2), "no token behind the first 2"),
    ],
)
def test_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_a_tokenizer_without_template_is_refused():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        Prompted(tokenizer, PairCollator(tokenizer))


def test_refusals_of_the_data():
    assert refusals_of((), ["sorry , no", "sorry , i", "I cannot help"]) == ("I cannot", "sorry ,")
    assert refusals_of(("no",), ["sorry , no"]) == ("no",)
