"""The base of all errors whose message explains itself to a user."""


class PposeError(Exception):
    """Something given from outside is wrong: a config, a file, an argument.

    The message says what, where and what to do; the tools print it without a trace.
    """
