"""`nlp-adv report FOLDER …`: one report of finished evaluations."""

from __future__ import annotations

from nlp_adv.cli.flags import PlainParser, command_line


def main(argv: list[str]) -> None:
    """Run the command; what takes long to import waits until the flags are read."""
    parser = PlainParser(
        prog="nlp-adv report", description="Put finished evaluations into one report."
    )
    parser.add_argument(
        "folders",
        nargs="+",
        help="Report on these folders of nlp-adv attack or evaluate; the first one's model is the "
        "baseline.",
    )
    parser.add_argument("--shards", action="store_true", help="The folders are shards of one run.")
    parser.add_argument(
        "--leaderboard",
        action="store_true",
        help="Write leaderboard.md as well: a table for each data set and protocol, a row a model.",
    )
    parser.add_argument("--title", default="Robustness", help="Give the report this title.")
    parser.add_argument("--output_dir", required=True, help="Write the report into this folder.")
    options = parser.parse_args(argv)
    from nlp_adv.cli.evaluations import report

    report(options, command_line("report", argv))
