"""Formats counts in messages."""


def plural(n: int, one: str, many: str = "") -> str:
    """Return a number with what is counted: `1 trial`, `2 trials`.

    Args:
        one: what follows 1.
        many: what follows other numbers; by default `one` with an s.
    """
    return f"{n} {one if n == 1 else many or f'{one}s'}"
