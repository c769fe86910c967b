"""Fills the last column of docs/faults.md: the tests that hold each fault mended.

    python scripts/faults_table.py            write it
    python scripts/faults_table.py --check    exit with 1 where it is not up to date

A test, its class or its file (`pytestmark`) names what it holds with `pytest.mark.fault("T1")`.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "faults.md"


def marked_tests(tests: Path = ROOT / "tests") -> dict[str, list[str]]:
    """`file::test` by the number of the fault; a mark of a class or a file is of all its tests."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(tests.rglob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for numbers, names in _tests(tree.body, _of_file(tree), ()):
            for number in dict.fromkeys(numbers):
                found[number].append("::".join((str(path.relative_to(ROOT)), *names)))
    return found


def _tests(
    body: list[ast.stmt], numbers: list[str], inside: tuple[str, ...]
) -> Iterator[tuple[list[str], tuple[str, ...]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _tests(node.body, numbers + _marks(node.decorator_list), (node.name,))
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield numbers + _marks(node.decorator_list), (*inside, node.name)


def _of_file(tree: ast.Module) -> list[str]:
    """Marks in `pytestmark`, one or a list."""
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    return [
        number
        for value in values
        for number in _marks(value.elts if isinstance(value, ast.List) else [value])
    ]


def _marks(expressions: list[ast.expr]) -> list[str]:
    return [
        ast.literal_eval(mark.args[0])
        for mark in expressions
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault"
    ]


def filled(text: str, tests: dict[str, list[str]]) -> str:
    """The table with its last column made anew.

    Raises:
        SystemExit: a fault that no test holds, or a test of a fault that is not in the table.
    """
    lines, seen = [], set()
    for line in text.splitlines():
        cells = line.strip("|").split(" | ")
        number = cells[0].strip()
        if len(cells) == 4 and number not in ("number", "") and not number.startswith("--"):
            seen.add(number)
            if not tests.get(number):
                raise SystemExit(f"No test holds {number}.")
            first, *more = tests[number]
            cells[3] = f"`{first}`" + (f" and {len(more)} more" if more else "")
            line = f"| {number} | {cells[1]} | {cells[2]} | {cells[3]} |"
        lines.append(line)
    if unknown := set(tests) - seen:
        raise SystemExit(f"Not in docs/faults.md: {', '.join(sorted(unknown))}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    before = TABLE.read_text("utf-8")
    after = filled(before, marked_tests())
    if "--check" in sys.argv:
        raise SystemExit(int(after != before))
    TABLE.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
