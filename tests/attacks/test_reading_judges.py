"""Judges that read answers: what they are given, several generations, and bad ones."""

from dataclasses import dataclass

import pytest
import torch

from nlp_adv.attacks import PGD
from nlp_adv.attacks.chat.answering import Answering
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.chat.reading import Generations, ReadingJudge
from nlp_adv.data.chat_demo import FORBIDDEN, chat_model, chat_tokenizer, requests
from nlp_adv.data.pairs import PairCollator
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite

TOKENIZER = chat_tokenizer()
PROMPTED = Prompted(TOKENIZER, PairCollator(TOKENIZER, max_length=64))
ROWS = requests(FORBIDDEN, 5, seed=1)
PROMPTS, TARGETS = [one["prompt"] for one in ROWS], [one["target"] for one in ROWS]


@pytest.fixture(scope="module")
def model():
    model = chat_model(TOKENIZER, seed=1).eval()
    with torch.no_grad():  # far from uniform, so that rounding decides nothing
        for parameter in model.parameters():
            parameter.mul_(1.0 if parameter.ndim == 1 else 3.0)
    return model


@dataclass
class Noting:
    """It remembers what it was given, and takes an answer for one that holds a word."""

    said: dict
    word: str = ""
    name: str = "noting"
    version: str = "1"

    def __call__(self, asked, answers):
        for request, answer in zip(asked, answers, strict=True):
            self.said.setdefault(request, []).append(answer)
        return [bool(self.word) and self.word in one.split() for one in answers]


def answering(model, function, **more):
    return Answering(model, ReadingJudge.of(function), TOKENIZER, PROMPTS, Generations(**more))


def rows_of(numbers, given=0):
    made = PROMPTED.batch([PROMPTS[n] for n in numbers], [TARGETS[n] for n in numbers], given)
    return {**made, "request": torch.tensor(numbers)}


def looked(found, batch):
    taken = {key: one for key, one in batch.items() if key not in ("adv_mask", "labels")}
    with torch.no_grad():
        return found(**taken).logits[:, 1]


def test_it_reads_what_the_model_generates(model):
    """Word for word what `generate` says, in a batch of prompts of unlike lengths."""
    said = {}
    margin = looked(answering(model, Noting(said), new_tokens=8), rows_of([0, 1, 2, 3, 4]))
    assert (margin < 0).all()
    for prompt in PROMPTS:
        assert set(said[prompt]) == set(PROMPTED.answers(model, [prompt], 8))


def test_the_end_of_an_answer_is_its_end(model):
    first = PROMPTED.answers(model, PROMPTS[:1], 8)[0].split()
    place = next(n for n in range(1, 8) if first[n] not in first[:n])
    end = TOKENIZER.convert_tokens_to_ids(first[place])
    model.generation_config.eos_token_id, before = [end], model.generation_config.eos_token_id
    said = {}
    looked(answering(model, Noting(said), new_tokens=8), rows_of([0]))
    model.generation_config.eos_token_id = before
    assert said[PROMPTS[0]][0].split() == first[: place + 1]


def test_what_is_given_of_an_answer_is_read_too(model):
    said = {}
    looked(answering(model, Noting(said), new_tokens=3), rows_of([0], given=2))
    words = said[PROMPTS[0]][0].split()
    assert words[:2] == TARGETS[0].split()[:2]
    assert len(words) == 5


@pytest.mark.parametrize("site", [EmbeddingSite(), LayerSite("0", "2")])
def test_it_reads_the_answer_at_delta(model, site):
    """The same as of a model whose hook adds δ to the prompt, generating without a cache."""
    said = {}
    found = answering(model, Noting(said), new_tokens=4)
    attack = PGD(L2Ball(0.7, "token"), 1.4, 4, False, loss="margin", unit="relative", shorten=True)
    batch = rows_of([0, 1, 2])
    result = attack(found, batch, site=site)
    assert not result.success.any()
    assert (result.losses[-1] > result.losses[0]).all()
    modules = [model.model.embed_tokens]
    if isinstance(site, LayerSite):
        modules = [model.model.layers[0], model.model.layers[2]]
    width = batch["input_ids"].shape[1]
    for row in range(3):
        size = int(batch["answer_begins"][row])
        ids = batch["input_ids"][row : row + 1, :size]
        deltas = [
            result.delta[row : row + 1, n * width : n * width + size] for n in range(len(modules))
        ]

        def adding(delta):
            def hook(module, args, output):
                own = torch.nn.functional.pad(delta, (0, 0, 0, output.shape[1] - delta.shape[1]))
                return output + own

            return hook

        handles = [
            module.register_forward_hook(adding(delta))
            for module, delta in zip(modules, deltas, strict=True)
        ]
        for _ in range(4):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        for handle in handles:
            handle.remove()
        words = TOKENIZER.decode(ids[0, size:]).split(TOKENIZER.eos_token)[0].split()
        words = [one for one in words if one not in TOKENIZER.all_special_tokens]
        assert words in [one.split() for one in said[PROMPTS[row]]]
        assert words != PROMPTED.answers(model, [PROMPTS[row]], 4)[0].split()  # δ matters


def test_a_verdict_is_a_success(model):
    """Of a judge that takes anything for an answer, and of one that knows a word."""
    first = PROMPTED.answers(model, PROMPTS[:1], 8)[0].split()[0]
    found = looked(answering(model, Noting({}, first), new_tokens=8), rows_of([0, 1, 2, 3, 4]))
    said = PROMPTED.answers(model, PROMPTS, 8)
    assert (found > 0).tolist() == [first in one.split() for one in said]
    with torch.enable_grad():
        taken = {k: v for k, v in rows_of([0]).items() if k not in ("adv_mask", "labels")}
        assert (answering(model, Noting({}, first))(**taken).logits[:, 1] < 0).all()


def test_generations_belong_to_the_request(model):
    """Whatever batch a request comes in; the first is greedy, the others are drawn apart."""
    together, alone, other = {}, {}, {}
    more = {"count": 3, "temperature": 2.0, "new_tokens": 6}
    looked(answering(model, Noting(together), **more), rows_of([4, 0, 1, 2, 3]))
    for number in range(5):
        looked(answering(model, Noting(alone), **more), rows_of([number]))
    looked(answering(model, Noting(other), **more, seed=1), rows_of([0]))
    for prompt in PROMPTS:
        # The first calls are made twice, to see whether the judge says the same.
        assert set(together[prompt]) == set(alone[prompt])
        assert PROMPTED.answers(model, [prompt], 6)[0] in together[prompt]
    assert len(set(together[PROMPTS[0]])) > 1
    greedy = PROMPTED.answers(model, PROMPTS[:1], 6)[0]
    assert (set(other[PROMPTS[0]]) & set(alone[PROMPTS[0]])) == {greedy}


def test_draws_follow_the_softmax(model):
    """Frequencies of a first token beside its probabilities at a temperature."""
    streams = [torch.Generator().manual_seed(n) for n in range(4000)]
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(4000, 4)
    drawn = Generations(2, 0.5)._chosen(logits, streams)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, (logits[0] / 0.5).softmax(0), atol=0.02)


def test_one_generation_is_enough(model):
    """More generations answer at least what fewer do; the greedy one is among them."""
    counts = []
    word = PROMPTED.answers(model, PROMPTS[:1], 6)[0].split()[-1]
    for count in (1, 4, 16):
        found = answering(model, Noting({}, word), count=count, temperature=3.0, new_tokens=6)
        counts.append(looked(found, rows_of([0, 1, 2, 3, 4])) > 0)
    assert counts[0].any()
    assert (counts[0] <= counts[1]).all()
    assert (counts[1] <= counts[2]).all()
    assert counts[2].sum() > counts[0].sum()


def test_a_model_at_its_last_position_stops(model):
    said = {}
    looked(answering(model, Noting(said), new_tokens=100), rows_of([0]))
    size = int(rows_of([0])["answer_begins"][0])
    ids = TOKENIZER(said[PROMPTS[0]][0], add_special_tokens=False)["input_ids"]
    assert len(ids) <= 64 - size + 1


def broken(requests, answers):
    raise RuntimeError("no\nmodel here")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda asked, answers: True, "judge <lambda> returned True for 2 answers"),
        (lambda asked, answers: [True], "must return a list with True, False or a score"),
        (lambda asked, answers: [2.0] * len(answers), "a score from 0 to 1"),
        (lambda asked, answers: ["yes"] * len(answers), "a score from 0 to 1"),
        (lambda asked, answers: [float("nan")] * len(answers), "a score from 0 to 1"),
        (broken, r"The judge broken failed on .*RuntimeError: no model here.*; mend it"),
    ],
)
def test_bad_judges_end_in_a_sentence(model, function, said):
    with pytest.raises(UserError, match=said) as caught:
        looked(answering(model, function), rows_of([0, 1]))
    assert "\n" not in str(caught.value)


def test_scores_and_their_threshold():
    def score(asked, answers):
        return torch.tensor([0.2, 0.7, 1.0])

    pairs = (["a"] * 3, ["x", "y", "z"])
    assert ReadingJudge.of(score).answered(*pairs) == [False, True, True]
    assert ReadingJudge.of(score, threshold=0.9).answered(*pairs) == [False, False, True]
    one, two = ReadingJudge.of(score), ReadingJudge.of(score, threshold=0.9)
    assert one.fingerprint != two.fingerprint
    one.answered(*pairs)
    assert one.fingerprint == ReadingJudge.of(score).fingerprint


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ReadingJudge.of(3), "nothing that can be called"),
        (lambda: ReadingJudge.of(broken, threshold=0.0), "above 0 and at most 1"),
        (lambda: Generations(0), "1 or more"),
        (lambda: Generations(2, 0.0), "temperature is above 0"),
    ],
)
def test_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_no_argument_is_a_deprecated_one(model, recwarn):
    looked(answering(model, Noting({}), new_tokens=3, count=2), rows_of([0, 1]))
    assert not [one for one in recwarn if issubclass(one.category, FutureWarning)]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft and transformers
def test_an_adapter_reads_as_its_model(model):
    """One of peft that has learnt nothing yet, whose forward says nothing of what it takes."""
    import copy

    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    ).eval()
    said, same = {}, {}
    looked(answering(model, Noting(said), new_tokens=6), rows_of([0, 1]))
    looked(answering(adapted, Noting(same), new_tokens=6), rows_of([0, 1]))
    assert said == same


def test_a_model_without_a_cache_is_refused(model):
    class Forgetting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.config = model, model.config

        def get_input_embeddings(self):
            return self.own.get_input_embeddings()

        def forward(self, input_ids, attention_mask, use_cache=None):
            return self.own(input_ids, attention_mask=attention_mask, use_cache=False)

    with pytest.raises(UserError, match="Forgetting keeps no cache"):
        looked(answering(Forgetting(), Noting({})), rows_of([0]))
