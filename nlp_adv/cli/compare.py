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
    parser.add_argument("recipe", help="Run this recipe, a YAML file.")
    parser.add_argument("--output_dir", help="Write cells and report here; runs/RECIPE by default.")
    parser.add_argument("--methods", nargs="+", help="Run only these of its methods.")
    parser.add_argument("--seeds", nargs="+", type=int, help="Run only these of its seeds.")
    parser.add_argument(
        "--archive",
        help="Keep finished cells in this folder, a small file each without texts and weights: "
        "those that are there are taken and not run, on any machine.",
    )
    parser.add_argument(
        "--report_only",
        action="store_true",
        help="Report on the cells that are there, and run none.",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="Check everything, say what it will take, and stop."
    )
    options, rest = parser.parse_known_args(argv)
    overrides = by_name(rest)
    for word in overrides.pop(""):
        raise UserError(f"nlp-adv compare takes one recipe; {word!r} is one too many.")
    return options, {key: values or ["true"] for key, values in overrides.items()}
