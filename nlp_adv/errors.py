"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Something in the request is wrong; the message is one sentence: the cause and the way out.

    The command line prints it without a traceback and exits with code 2.
    """
