"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Something in the request is wrong; the message is one sentence: the cause and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


def foreign_code(what: str, name: str | None) -> str:
    """What to say of a model, tokenizer or configuration that comes with Python code of its own."""
    return (
        f"The {what} {name!r} comes with code of its own (auto_map), which nlp_adv does not run "
        f"unasked: give a model whose classes are transformers' own, or read that code and pass "
        f"--trust_remote_code true."
    )
