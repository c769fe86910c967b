"""What attacks and evaluations need besides a model and data: where it comes from, and for whom."""

from __future__ import annotations

from dataclasses import dataclass

_GITHUB = "https://raw.githubusercontent.com"
_JAILBREAKBENCH = "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors/resolve/main/data"
_CAD = (
    f"{_GITHUB}/acmi-lab/counterfactually-augmented-data/6f232a1d2a11462a30ce08fb4825b734ab30828e"
    "/sentiment"
)
_IMDB = "repository Apache-2.0; the reviews are IMDB's, which states no licence"


@dataclass(frozen=True)
class Resource:
    """Something that is fetched once, or comes from elsewhere.

    Attributes:
        name: on the command line.
        what: it is.
        needed_by: attacks and commands.
        licence: as its source states it.
        source: where it comes from, for people.
        file: what it is called in the folder of resources; "" where it is not kept there.
        url: of the file that is fetched.
        sha256: of that file; "" where none is known.
        elsewhere: for what is not kept there: how to have it.
    """

    name: str
    what: str
    needed_by: str
    licence: str
    source: str
    file: str = ""
    url: str = ""
    sha256: str = ""
    elsewhere: str = ""


_ALL = (
    Resource(
        "neighbours",
        "up to 8 neighbours of each of 49,975 English words in counter-fitted vectors; or, with "
        "--from, lists of one's own, or built from a file of word vectors",
        "textfooler, a2t, genetic; textbugger goes without, too",
        "MIT (Jia et al.); from counter-fitted vectors (Apache-2.0), which come from PPDB (CC BY "
        "3.0 US) and WordNet (its own licence)",
        "github.com/robinjia/certified-word-sub; the vectors: github.com/nmrksic/counter-fitting, "
        "word_vectors/counter-fitted-vectors.txt.zip",
        "neighbours.json",
        f"{_GITHUB}/robinjia/certified-word-sub/42006fe9ea68663443be794a96d9daccfc664dc4/data/"
        "counterfitted_neighbors.json",
        "103247143f39bd5dd66850f3a912393392641dbd98093c61e2b24a4cc8a96fb0",
    ),
    Resource(
        "wordnet",
        "synonyms of English words",
        "pwws",
        "WordNet licence, which permits use and distribution",
        "NLTK's copy; also apt install wordnet-base, or python -m nltk.downloader wordnet",
        "wordnet.zip",
        f"{_GITHUB}/nltk/nltk_data/gh-pages/packages/corpora/wordnet.zip",
    ),
    Resource(
        "stop-words",
        "words that attacks do not touch",
        "all attacks on words",
        "this package's, and of the list scikit-learn, scikit-learn's",
        "this package, and scikit-learn",
        elsewhere="they come with the package: --stop_words english, scikit-learn, none, or a file",
    ),
    Resource(
        "masked-lm",
        "a masked language model, such as google-bert/bert-base-uncased",
        "bae, bert-attack, clare",
        "the model's own, on its page",
        "the Hugging Face Hub",
        elsewhere="name one where it is needed, --masked_lm NAME_OR_FOLDER; the Hub's are fetched",
    ),
    Resource(
        "encoder",
        "a sentence encoder, such as sentence-transformers/all-MiniLM-L6-v2",
        "protocols that compare sentences: textfooler2020, li2021, a2t",
        "the model's own, on its page",
        "the Hugging Face Hub",
        elsewhere="name one where it is needed, --encoder NAME_OR_FOLDER; the Hub's are fetched",
    ),
    Resource(
        "advglue",
        "AdvGLUE's development set, texts that fool models: a file a task, 738 rows",
        "nlp-adv attack --attacks static --test_file",
        "CC BY-SA 4.0",
        "github.com/AI-secure/adversarial-glue",
        "advglue",
        f"{_GITHUB}/AI-secure/adversarial-glue/2e18301c3e6b0fed775834d64e9e431745df92ed/dev.json",
        "ddbaffce5a1ff0c1fb15812aa6546656f27372402c1141bbfbb2a86270ba3477",
    ),
    Resource(
        "counterfactual-imdb",
        "488 IMDB reviews that people revised until the label changed (Kaushik et al., ICLR 2020)",
        "nlp-adv attack --attacks static --test_file",
        _IMDB,
        "github.com/acmi-lab/counterfactually-augmented-data",
        "counterfactual_imdb.jsonl",
        f"{_CAD}/new/test.tsv",
        "28d32ca405131d87ef095109cc1764d6e917a3df63584b2f16e9465020b7f29d",
    ),
    Resource(
        "counterfactual-imdb-originals",
        "the 488 reviews as they were, to compare with",
        "nlp-adv attack --test_file",
        _IMDB,
        "github.com/acmi-lab/counterfactually-augmented-data",
        "counterfactual_imdb_originals.jsonl",
        f"{_CAD}/orig/test.tsv",
        "35e8fab251220685ae47f95ef86bad1fd7fa0017a6ce4afe803ab18a71ff61ff",
    ),
    Resource(
        "harmful-prompts",
        "JailbreakBench's 100 harmful requests, with the answer that an attacker wants",
        "nlp-adv attack --modality chat --prompts_file",
        "MIT",
        "huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
        "harmful_prompts.jsonl",
        f"{_JAILBREAKBENCH}/harmful-behaviors.csv",
    ),
    Resource(
        "benign-prompts",
        "its 100 benign requests on the same subjects",
        "nlp-adv attack --modality chat --benign_file",
        "MIT",
        "huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
        "benign_prompts.jsonl",
        f"{_JAILBREAKBENCH}/benign-behaviors.csv",
    ),
)
RESOURCES = {one.name: one for one in _ALL}
