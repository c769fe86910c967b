"""What holds of every page: links, the navigation, and tables that are what the registries hold."""

import functools
import re
import sys

import pytest
import yaml
from pages import PAGES, ROOT, blocks, first_column, section, text
from transformers import HfArgumentParser

from nlp_adv.cli.chat_attack import ChatAttack
from nlp_adv.cli.image_attack import ImageAttack
from nlp_adv.cli.sweep_request import SweepArguments
from nlp_adv.cli.task import task_of
from nlp_adv.cli.text_attack import TextAttack
from nlp_adv.cli.word_arguments import WordTrainingArguments
from nlp_adv.methods import METHODS
from nlp_adv.run.arguments import RunArguments
from nlp_adv.training.arguments import AdversarialTrainingArguments

sys.path.append(str(ROOT / "docs"))
import figures
import method_pages
import reference_pages

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def links(page: str) -> list[tuple[str, str]]:
    """Relative targets and their anchors, outside code."""
    prose = FENCE.sub("", text(page))
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)", prose)
    split = [target.partition("#") for target in found if "://" not in target]
    return [(path, anchor) for path, _, anchor in split]


def anchors(page: str) -> set[str]:
    """Of the headings, as code hosts and the site name them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    path = ROOT / page
    for target, anchor in links(page):
        there = (path.parent / target).resolve() if target else path
        generated = there.parent == ROOT / "docs" / "methods" and there.stem in METHODS
        generated |= there.parent == ROOT / "docs" / "reference"
        assert there.exists() or generated, target
        if anchor and there.suffix == ".md" and there.exists():
            assert anchor in anchors(str(there.relative_to(ROOT))), f"{target}#{anchor}"


def test_every_page_is_in_the_navigation():
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n", 1)[1]

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    shown = pages(yaml.safe_load(lines))
    assert len(shown) == len(set(shown))
    made = {"index.md", *(f"reference/{name}.md" for name in reference_pages.PAGES)}
    written = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    written = {page for page in written if not page.startswith("notebooks/")}
    assert set(shown) == written | made


@pytest.mark.parametrize("title", ["When to use which", "What each does and costs"])
def test_the_tables_of_methods_are_the_registry(title):
    names = [cell.strip("`") for cell in first_column(section("docs/methods/index.md", title))]
    assert names == list(dict.fromkeys(names))
    assert sorted(names) == sorted(METHODS)


def test_the_table_of_attacks_on_words_is_the_registry():
    from nlp_adv.robustness import ATTACKS

    names = [cell.strip("`") for cell in first_column(section("docs/attacks/words.md", "Attacks"))]
    assert sorted(names) == sorted(ATTACKS)


def test_the_table_of_attacks_in_python_is_what_there_is():
    import nlp_adv.attacks

    cells = first_column(section("docs/attacks/points.md", "The attacks"))
    names = {name for cell in cells for name in re.findall(r"\w+", cell)}
    attack = nlp_adv.attacks.Attack
    exported = [(name, getattr(nlp_adv.attacks, name)) for name in nlp_adv.attacks.__all__]
    kinds = [(name, one) for name, one in exported if isinstance(one, type)]
    assert names == {name for name, one in kinds if issubclass(one, attack) and one is not attack}


# Flags that pages name and that are other programs'.
OTHERS = """
config_file cpu machine_rank main_process_ip main_process_port multi_gpu nnodes node_rank
nproc_per_node num_machines num_processes rdzv_backend rdzv_endpoint

doc_stride line_by_line source_prefix summary_column text_column

archive dry_run from leaderboard methods report_only seeds shards title to
"""  # of launchers; of transformers' scripts; of compare, report and resources


@functools.cache
def known_flags() -> set[str]:
    training = (SweepArguments, AdversarialTrainingArguments)
    kinds = [
        (*task_of("text").arguments, *training),
        task_of("image").arguments,
        task_of("chat").arguments,
        (WordTrainingArguments,),
        (RunArguments,),
        *(one.kinds("evaluate") for one in (TextAttack, ImageAttack, ChatAttack)),
    ]
    actions = [action for one in kinds for action in HfArgumentParser(one)._actions]
    others = {f"--{name}" for name in OTHERS.split()}
    return {name for action in actions for name in action.option_strings} | others


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_the_text_are_flags_of_a_command(page):
    used = set(re.findall(r"--[a-z]\w+", text(page)))
    assert used - known_flags() == set()


def test_the_pages_name_flags():
    assert {"--adv_epsilon", "--judge", "--adv_trainer"} <= {
        flag for page in PAGES for flag in re.findall(r"--[a-z]\w+", text(page))
    }


@pytest.mark.parametrize("page", PAGES)
def test_no_placeholder_is_left(page):
    if page != "docs/faults.md":
        assert re.findall(r"\b[A-Z]+_TABLE\b|\bTODO\b|\bTBD\b|\bFIXME\b", text(page)) == []


class TestMethodPages:
    """The site's page of each method, without mkdocs."""

    def test_the_menu_has_all_methods(self):
        assert method_pages.method_names() == list(METHODS)

    @pytest.mark.parametrize("name", METHODS)
    def test_it_has_every_flag_with_its_meaning(self, name):
        from nlp_adv.methods import describe

        page = method_pages.method_page(name)
        table = page.split("## Flags", 1)[1].split("\n## ", 1)[0]
        rows = [line.split("|") for line in table.splitlines() if line.startswith("| `--adv_")]
        flags = {row[1].strip(" `").removeprefix("--adv_"): row[3].strip() for row in rows}
        assert set(flags) == set(describe(METHODS[name].preset())) - {"method"}
        assert all(flags.values())

    @pytest.mark.parametrize("name", METHODS)
    def test_its_parts(self, name):
        page = method_pages.method_page(name)
        parts = re.findall(r"^## (.+)$", page, re.MULTILINE)
        assert {"The method", "Flags", "Measured", "In Python"} <= set(parts)
        docstring = METHODS[name].__doc__
        for part in ("Deviations", "Errors", "Cost"):
            assert (part in parts) == (f"\n    {part}: " in docstring)

    def test_what_was_measured_is_the_methods_own(self):
        page = method_pages.method_page("fgm")
        assert "| 8 | fgm on ½, ε 0.04 |" in page
        assert "fgm remembered" not in page
        assert "| fgm_matrix |" not in page
        assert "freelb-2, ε 0.08" in method_pages.method_page("freelb")
        assert "Nothing with controls yet" in method_pages.method_page("sam")


def test_the_reference_has_every_public_name():
    import nlp_adv

    shown = "\n".join(map(reference_pages.reference_page, reference_pages.PAGES))
    listed = re.findall(r"^::: [\w.]+\.(\w+)$", shown, re.MULTILINE)
    assert set(nlp_adv.__all__) - {"METHODS"} <= set(listed)


class TestTheFigure:
    """The README's, which `python docs/figures.py` draws."""

    def test_the_words_beside_it_say_what_it_shows(self):
        before = text("README.md").split("](docs/figures/robustness.svg)")[0]
        alt = before.rpartition("![")[2]
        shown = [int(number) for number in re.findall(r"\b(\d\d)\b", alt)]
        found = [round(bar[0]) for _, both in figures.bars().values() for bar in both.values()]
        assert shown == found

    def test_intervals_hold_their_means(self):
        for cost, both in figures.bars().values():
            assert cost >= 1
            assert all(low < mean < high for mean, low, high in both.values())

    def test_it_is_drawn(self, tmp_path):
        figures.draw(tmp_path / "robustness.svg")
        assert (tmp_path / "robustness.svg").read_bytes().startswith(b"<?xml")


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) <= 150
    assert blocks("README.md", "python")
