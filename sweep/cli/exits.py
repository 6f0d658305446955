"""Exit statuses of a command."""

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
