"""The page of a training method: its docstring, its flags, and what was measured of it."""

import inspect
import re
from pathlib import Path
from typing import Any

from nlp_adv.methods import METHODS, describe

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "Controls": ("none", "noise", "rdrop", "sam"),
    "One step": ("fgm", "fgsm", "fgm_remembered", "fgm_matrix"),
    "Several steps": ("pgd", "freelb", "tavat", "freeat", "yopo", "awp"),
    "Outputs compared": ("vat", "smart", "trades"),
    "Language models": ("cat", "capo", "lat", "rr"),
}
# How the committed tables call a method, where not by its name.
BENCH = "recipes/results/bench_training.md"
TABLES = {
    "Robustness against cost, SST-2": ("recipes/results/frontier/README.md", 1),
    "Images, Fashion-MNIST": ("recipes/results/image_training/image_training.md", 0),
    "AG News on 2000 rows": ("recipes/results/main_small/README.md", 0),
}
PARTS = ("Deviations", "Errors", "Cost")
ARGUMENT = re.compile(r"^    (\w[\w, ]*): ((?:.|\n(?!    \w[\w, ]*: ))*)", re.MULTILINE)


def method_names() -> list[str]:
    """In the order of the registry, which the groups above must cover."""
    grouped = [name for names in GROUPS.values() for name in names]
    missing = set(METHODS) ^ set(grouped)
    if missing:
        raise ValueError(f"docs/method_pages.py: GROUPS and the registry differ in {missing}.")
    return list(METHODS)


def method_page(name: str) -> str:
    """Markdown."""
    method = METHODS[name]
    title, _, formula = inspect.cleandoc(inspect.getmodule(method).__doc__ or "").partition("\n")
    summary, arguments, parts = parted(inspect.cleandoc(method.__doc__ or ""))
    for parent in method.__mro__[1:]:  # a method that is built on another has its settings too
        arguments = parted(inspect.cleandoc(parent.__doc__ or ""))[1] | arguments
    _, does, cost, source = overview("What each does and costs")[name]
    use = overview("When to use which")[name][1]
    from_paper = f" Source: {source}." if source else ""
    sections = [
        f"# {title.rstrip('.')}",
        f"**What it does:** {does}. **Use it when** {use}. "
        f"**Cost of a step:** {cost} (in ordinary steps).{from_paper}",
        f"```bash\n{command(name)}\n```",
        f"## The formula\n\n{formula.strip()}" if formula.strip() else "",
        f"## The method\n\n{summary}",
        f"## Flags\n\n{flag_table(method, arguments)}",
        *(f"## {part}\n\n{parts[part]}" for part in PARTS if part in parts),
        measured(name),
        f"## In Python\n\n```python\nfrom nlp_adv.methods import {method.__name__}\n\n"
        f"method = {method.__name__}.preset()  # with other numbers: {method.__name__}(…)\n"
        f"```\n\n[Signature](../reference/methods.md) · "
        f"[source](../../nlp_adv/methods/{Path(inspect.getfile(method)).name}) · "
        f"[all methods](index.md) · [how to choose ε](../howto/epsilon.md)",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def command(name: str) -> str:
    """The shortest one that trains with the method on data of one's own."""
    if name in GROUPS["Language models"]:
        return (
            f"nlp-adv train --modality chat --adv {name} --model_name_or_path MODEL \\\n"
            f"    --train_file pairs.jsonl --utility_file conversations.jsonl"
        )
    return (
        f"nlp-adv train --adv {name} \\\n"
        f"    --model_name_or_path bert-base-uncased --task_name sst2"
    )


def parted(docstring: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """A docstring's text, its arguments, and the paragraphs that begin with a name of `PARTS`."""
    text, arguments, parts = list[str](), dict[str, str](), dict[str, str]()
    for paragraph in re.split(r"\n\s*\n", docstring):
        head = paragraph.split(":")[0]
        if head == "Args" and paragraph.startswith("Args:\n"):
            for found in ARGUMENT.finditer(paragraph):
                for one in found[1].split(", "):
                    arguments[one] = " ".join(found[2].split())
        elif head in PARTS:
            parts[head] = paragraph.removeprefix(f"{head}:").strip()
            parts[head] = parts[head][:1].upper() + parts[head][1:]
        elif head != "Args":
            text.append(paragraph)
    return "\n\n".join(text), arguments, parts


def flag_table(method: Any, arguments: dict[str, str]) -> str:
    """Every setting of the preset, the flag that changes it, and what it is."""
    preset = describe(method.preset())
    preset.pop("method")
    known = {
        "norm": "the ball's norm: l2, linf or l1",
        "unit": "what ε is measured in ([choose ε](../howto/epsilon.md))",
        "epsilon": "the radius of the ball",
        "per": "one norm an example, or one a token",
    } | arguments
    if not preset:
        return "It has none."
    rows = (
        f"| `--adv_{key}` | {_value(value)} | {known.get(key, '')} |"
        for key, value in preset.items()
    )
    ball = f"\n\nThe ball: {arguments['ball']}" if "ball" in arguments else ""
    return "\n".join(["| flag | preset | |", "|---|---|---|", *rows]) + ball


def measured(name: str) -> str:
    """The rows of the committed tables that are about the method."""
    parts = []
    rows = rows_of(BENCH, lambda cells: re.match(rf"{name}\b(?!_)", cells[0]), 0)
    if rows:
        parts.append(
            f"What a step costs ([bench_training](../../{BENCH}): a BERT of six layers on one CPU "
            f"thread; “÷ clean” is the factor over an ordinary step, “floor” the least "
            f"possible):\n\n{rows}"
        )
    for title, (path, column) in TABLES.items():
        rows = rows_of(path, lambda cells, at=column: _is_about(cells[at], name), column)
        if rows:
            parts.append(f"{title} ([the whole table](../../{path})):\n\n{rows}")
    if name in ("cat", "lat"):
        parts.append(
            "Requests refused under attack, on a toy: "
            "[chat_toy](../../recipes/results/chat_toy/README.md)."
        )
    if not parts:
        parts.append(
            "Nothing with controls yet; tests compare it with a transcription of its formula."
        )
    return "## Measured\n\n" + "\n\n".join(parts)


def rows_of(path: str, wanted: Any, column: int) -> str:
    """The tables of a page, cut to the rows that are wanted; the first table with each header."""
    text, tables, head = (ROOT / path).read_text(encoding="utf-8"), {}, ()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            continue
        cells = [one.strip() for one in line.strip("|").split("|")]
        if number + 1 < len(lines) and re.fullmatch(r"[|:\- ]+", lines[number + 1]):
            head = (line, lines[number + 1])
        elif not re.fullmatch(r"[|:\- ]+", line) and len(cells) > column and wanted(cells):
            tables.setdefault(head, []).append(line)
    whole = ("\n".join([*head, *dict.fromkeys(rows)]) for head, rows in tables.items())
    return "\n\n".join(whole)


def overview(section: str) -> dict[str, list[str]]:
    """The cells of a table of methods/index.md, by method."""
    text = (ROOT / "docs" / "methods" / "index.md").read_text(encoding="utf-8")
    table = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    cells = [[one.strip() for one in row] for row in rows]
    return {row[0].strip("`"): row for row in cells if row[0] != "`--adv`"}


def _is_about(label: str, name: str) -> bool:
    """Whether a row's label is the method's, such as “pgd-3 on ½, ε 0.08” for pgd."""
    if name == "fgm_remembered":
        return label.startswith("fgm remembered")
    if name == "none":
        return label.startswith("plain")
    found = re.match(rf"{name}(?![a-z_])", label)
    return bool(found) and not label.startswith("fgm remembered")


def _value(value: Any) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else ""
