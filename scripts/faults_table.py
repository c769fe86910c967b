"""Fills the last column of docs/faults.md: the tests that hold each fault mended.

    python scripts/faults_table.py            write it
    python scripts/faults_table.py --check    exit with 1 where it is not up to date

A test names what it holds with `@pytest.mark.fault("T1")`.
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "faults.md"


def marked_tests(tests: Path = ROOT / "tests") -> dict[str, list[str]]:
    """`file::test` by the number of the fault."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(tests.rglob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    number = ast.literal_eval(mark.args[0])
                    found[number].append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


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
