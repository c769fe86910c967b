"""Texts in which there is nothing to read."""


def as_text(part: str | list[str]) -> str:
    """A text, or the words of one."""
    return part if isinstance(part, str) else " ".join(part)


def is_blank(text: str | list[str]) -> bool:
    """Whether a text holds no character that can be seen."""
    text = as_text(text)
    return not any(character.isprintable() and not character.isspace() for character in text)
