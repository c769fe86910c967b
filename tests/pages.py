"""The pages of the documentation, and the blocks of code in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "recipes/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def text(page: str) -> str:
    """A page of the repository, by its path."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), flags=re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> str:
    """What stands below a heading, up to the next one."""
    return re.split(r"^#+ ", text(page).split(f"## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def first_column(table: str) -> list[str]:
    """The first cells of a table's rows."""
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    return rows[2:]  # below the header and its rule


def commands(page: str) -> list[list[str]]:
    """Every nlp-adv command of a page's bash blocks, in words, without "…" and comments."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.replace("-m nlp_adv.cli.main", "nlp-adv").replace(
                "-m nlp_adv.run", "nlp-adv run"
            )
            for part in re.split(r" && |; ", line):
                if re.search(r"(^|\s)nlp-adv\s", part):
                    words = shlex.split(part, comments=True)
                    after = words[words.index("nlp-adv") + 1 :]
                    found.append([word for word in after if word != "…"])
    return found
