"""What is tried on the embeddings for a number that is published: named, versioned and hashed.

An accuracy under PGD bounds robustness from above, and another attack may lower it. A protocol
names attacks and all their settings, so that two numbers under it are numbers of one thing. What an
attack on words may do is another matter, and has protocols of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from nlp_adv.errors import no_such
from nlp_adv.robustness.fingerprint import attack_fingerprint


@dataclass(frozen=True, kw_only=True)
class PointProtocol:
    """Attacks on a point by name, and their settings.

    Args:
        name, version: a change of any number is a new version.
        attacks: by the names of `build_attack`.
        steps: of each.
        restarts: starts of each.
        queries: forward passes of a random search.
        source: where the numbers come from.
    """

    name: str
    version: int = 1
    attacks: tuple[str, ...]
    steps: int
    restarts: int = 1
    queries: int
    source: str = ""

    def hash(self) -> str:
        """12 hexadecimal digits of SHA-256 over all of it."""
        return attack_fingerprint(self)

    def __str__(self) -> str:
        return f"{self.name}, version {self.version} ({self.hash()})"


POINT_PROTOCOLS = {
    one.name: one
    for one in (
        PointProtocol(
            name="autoattack2020",
            attacks=("auto",),
            steps=100,
            queries=5000,
            source="Croce and Hein, ICML 2020, the standard version for L∞ and L2: APGD on the "
            "cross entropy, APGD-T and FAB-T towards 9 classes or all that there are, and Square",
        ),
    )
}


def point_protocol(name: str) -> PointProtocol:
    """The protocol of that name.

    Raises:
        UserError: there is none.
    """
    if name not in POINT_PROTOCOLS:
        raise no_such("protocol for embeddings", name, POINT_PROTOCOLS)
    return POINT_PROTOCOLS[name]
