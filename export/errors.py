"""The error of an exported file that is wrong."""


class ParityError(RuntimeError):
    """An exported file that does not load or does not compute the same."""
