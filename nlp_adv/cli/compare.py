"""`nlp-adv compare RECIPE`: train and evaluate methods × seeds, cell by cell, and report."""

from __future__ import annotations

import argparse
from typing import Any

from nlp_adv.cli.flags import PlainParser, by_name, command_line
from nlp_adv.errors import UserError


def main(argv: list[str]) -> None:
    """Run the command; what takes long to import waits until the flags are read."""
    options, overrides = _parse(argv)
    from nlp_adv.cli.comparison import compare

    compare(options, overrides, command_line("compare", argv))


def _parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = PlainParser(
        prog="nlp-adv compare",
        description="Train and evaluate the methods of a recipe. All other flags are those of "
        "nlp-adv train and nlp-adv evaluate, and win over the recipe's.",
    )
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument("--output_dir", help="cells and report; runs/RECIPE by default")
    parser.add_argument("--methods", nargs="+", help="of the recipe; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, help="all of the recipe by default")
    parser.add_argument(
        "--archive",
        help="a folder for finished cells, a small file each without texts and weights: those "
        "that are there are taken and not run, on any machine",
    )
    parser.add_argument("--report_only", action="store_true", help="of the cells that are there")
    parser.add_argument(
        "--dry_run", action="store_true", help="check everything, say what it will take, and stop"
    )
    options, rest = parser.parse_known_args(argv)
    overrides = by_name(rest)
    for word in overrides.pop(""):
        raise UserError(f"nlp-adv compare takes one recipe; {word!r} is one too many.")
    return options, {key: values or ["true"] for key, values in overrides.items()}
