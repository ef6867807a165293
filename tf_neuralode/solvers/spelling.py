"""Guesses what a misspelt name was meant to be."""

import difflib
from collections.abc import Iterable


def did_you_mean(received: Iterable[str], names: Iterable[str]) -> str:
    """The end of a message: the closest of `names` to the first one received that has any."""
    for name in received:
        for close in difflib.get_close_matches(name, list(names), n=1):
            return f" (did you mean {close!r}?)"
    return ""
