"""Formats counts in messages."""


def plural(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 trial`, `2 trials`.

    Args:
        one: the noun after 1.
        many: the noun after other numbers; by default `one` with an s.
    """
    return f"{n} {one if n == 1 else many or f'{one}s'}"
