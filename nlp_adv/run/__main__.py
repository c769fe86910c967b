"""`python -m nlp_adv.run …` is `nlp-adv run …`, for launchers that start a module."""

import sys

from nlp_adv.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
