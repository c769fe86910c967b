"""Examples in docstrings of public names run as they stand there, in an empty folder, offline."""

import inspect
import re
import textwrap

import pytest

import nlp_adv
import nlp_adv.attacks
import nlp_adv.robustness
import nlp_adv.sites

PARTS = (nlp_adv, nlp_adv.attacks, nlp_adv.robustness, nlp_adv.sites)
# An indented block that begins with an import says all that it needs; others are fragments, which
# take a model or a batch of the reader's.
WHOLE = re.compile(r"^ {4}(?:from|import) .*\n(?:(?: {4}.*)?\n)*", re.MULTILINE)


def examples(docstring: str) -> list[str]:
    """The blocks of a docstring that say all that they need."""
    return [textwrap.dedent(block) for block in WHOLE.findall(docstring + "\n")]


def shown() -> dict[str, str]:
    """Of each public name with examples, and of the parts themselves, all of its examples."""
    named = {part.__name__: part for part in PARTS}
    named |= {
        f"{part.__name__}.{name}": getattr(part, name) for part in PARTS for name in dir(part)
    }
    public = {
        title: one
        for title, one in named.items()
        if inspect.ismodule(one) or inspect.isclass(one) or inspect.isfunction(one)
    }
    found = {title: examples(inspect.getdoc(one) or "") for title, one in public.items()}
    distinct = {"\n".join(blocks): title for title, blocks in found.items() if blocks}
    return {title: code for code, title in distinct.items()}


EXAMPLES = shown()


def test_blocks_are_told_from_prose():
    text = "Says.\n\n    from a import b\n\n    b(1)\n\nMore.\n\n    c = d(e)\n\nimport is a word."
    assert examples(text) == ["from a import b\n\nb(1)\n\n"]


def test_the_main_names_have_examples():
    main = {"AdversarialTrainer", "PairCollator", "text_objective", "evaluate_robustness"}
    assert main <= {title.rsplit(".")[-1] for title in EXAMPLES}


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_runs(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[title], title, "exec"), {"__name__": "example"})
