"""YAML files that people write: a key that is there twice is an error, not the last one's win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nlp_adv.errors import UserError

_MERGE = "tag:yaml.org,2002:merge"  # <<: *other, whose keys may be given again


class Unrepeated(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML in which a key stands once; PyYAML lets the last one win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping.

        Raises:
            yaml.YAMLError: a key is there twice.
        """
        seen: set[Any] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                continue
            name = self.construct_object(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name} is there twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds.

    Args:
        path: the file.
        what: it is, for messages: "recipe".

    Raises:
        UserError: it cannot be read, is no YAML, or has a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Unrepeated)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The {what} {path} cannot be read: {error}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The {what} {path} is no YAML: {reason}.") from error
