"""`nlp-adv resources`: what attacks need besides a model, and whether it is here.

Nothing of it is in the package: each has a licence of its own.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from nlp_adv.cli.flags import PlainParser
from nlp_adv.cli.resource_folder import VARIABLE, fetched, folder
from nlp_adv.cli.resource_list import RESOURCES, Resource
from nlp_adv.errors import UserError, no_such

_DESCRIPTION = (
    "Without get: list what attacks need besides a model and data, where it comes from, under "
    "which licence, and whether it is here. With get NAME: fetch it once, and attacks find it."
)


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: there is no such resource, or it cannot be had.
    """
    parser = PlainParser(
        prog="nlp-adv resources",
        usage="nlp-adv resources [get NAME [--from FILE]] [--to FOLDER]",
        description=_DESCRIPTION,
    )
    parser.add_argument("get", nargs="*", metavar="get NAME", help="Fetch the resource NAME.")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="Take this local file instead of the network's: the published one, packed (.gz, .zip) "
        "or not; for neighbours also lists {word: [candidates]}, or word vectors (a word and its "
        "numbers a line), from which lists are built; for wordnet also its folder.",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help=f"Keep resources in this folder, or list this one, instead of ${VARIABLE} or the "
        f"platform's folder of caches ({folder()}).",
    )
    options = parser.parse_args(argv)
    place = options.to or folder()
    if not options.get:
        if options.source is not None:
            raise UserError("--from belongs to get: nlp-adv resources get NAME --from FILE.")
        print(_listed(place))
        return
    verb, *names = options.get
    if verb != "get" or len(names) != 1:
        raise UserError("Write nlp-adv resources, or nlp-adv resources get NAME.")
    _get(_named(names[0]), options.source, place)
    if options.to is not None and options.to != folder():
        print(f"Attacks look there with {VARIABLE}={options.to} in the environment.")


def _named(name: str) -> Resource:
    if name not in RESOURCES:
        raise no_such("resource", name, RESOURCES)
    resource = RESOURCES[name]
    if not resource.file:
        raise UserError(f"{name} is not kept by this command: {resource.elsewhere}.")
    return resource


def _get(resource: Resource, source: Path | None, place: Path) -> None:
    from nlp_adv.cli.resource_files import take

    print(f"Taking {source or resource.url} …", file=sys.stderr)
    taken = take(resource, source, place)
    if taken.warning:
        print(f"Note: {taken.warning}", file=sys.stderr)
    print(f"{resource.name} is in {taken.place}. It came with SHA-256 {taken.sha256}.")
    print(f"Licence: {resource.licence}. It is for: {resource.needed_by}.")


def _listed(place: Path) -> str:
    parts = [f"Resources are kept in {place}."]
    for one in RESOURCES.values():
        there = fetched(one.name, place) or (_wordnet() if one.name == "wordnet" else None)
        if one.elsewhere:
            here = one.elsewhere
        elif there is not None:
            here = f"here, {there}"
        else:
            here = f"not here; nlp-adv resources get {one.name}"
        lines = {
            "is": one.what,
            "for": one.needed_by,
            "from": one.source,
            "licence": one.licence,
            "here": here,
        }
        wrapped = (
            textwrap.fill(
                text,
                100,
                initial_indent=f"  {label:9}",
                subsequent_indent=" " * 11,
                break_long_words=False,
                break_on_hyphens=False,
            )
            for label, text in lines.items()
        )
        parts.append("\n".join([one.name, *wrapped]))
    parts.append("Where there is no network, fetch a file elsewhere and give it with --from FILE.")
    return "\n\n".join(parts)


def _wordnet() -> Path | None:
    """Where NLTK or Debian put it, which pwws finds as well."""
    from nlp_adv.attacks.words.candidates.wordnet import place_of

    try:
        return Path(str(place_of()))
    except UserError:
        return None
