"""A store that takes nothing from a process that has lost the lease of its study."""

from collections.abc import Callable

from sqlalchemy import Engine

from sweep.database import Cell, end_suspended, fence
from sweep.tracking.store import Store

LEASE_TAG = "sweep.lease"
"""Tag of a study's run: the fencing token of the lease whose holder alone may write."""
IDLE = 30.0
"""Seconds after which a database may end a transaction whose process is suspended."""


def fence_store(
    store: Store,
    run_id: str,
    fencing_token: str,
    error: Callable[[], Exception],
    check: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Write the fencing token of this process to a run, and let the store write nothing once the run has another token.

    The fence covers everything that this process writes, to any run. The token is checked in each transaction. With a
    tracking server, the process that took over may have a local record of its own: `check` is called in each
    transaction too, and before each request. A server has no transactions: a process that is suspended between the
    check and the request can still have that request carried out.

    Args:
        fencing_token: of a lease: its number, which only rises, and a token.
        error: what is raised if the token is another one.
        check: raises LeaseLostError if the lease is lost. For a database, it is called if the token was deleted or
            edited.

    Returns:
        A function that removes the fence. MLflow has one engine for all clients of a process: the next command of this
        process would find it.

    Raises:
        Exception: `error`, if the run has the token of a later lease.
    """
    tracking = store.client._tracking_client.store  # MLflow gives no other way to the engine that it writes with
    cell = Cell("tags", "value", {"run_uuid": run_id, "key": LEASE_TAG})
    store.hooks.lock_retry("tracking.uri")(lambda: _claim(cell, tracking.engine, fencing_token, error))
    end_suspended(tracking.engine, IDLE)

    def ours(seen: str | None) -> bool:
        """Return whether the run has the token. Where a person has deleted or edited it, the lease itself decides."""
        if store.replica is not None:
            check()
        if seen == fencing_token or (seen is not None and _number(seen) is not None):
            return seen == fencing_token
        check()
        return True

    removals = [fence(tracking.engine, cell, ours, error)]
    if store.replica is not None:
        removals.append(store.replica.fence(check))

    def remove() -> None:
        for removal in removals:
            removal()

    return remove


def _claim(cell: Cell, engine: Engine, fencing_token: str, error: Callable[[], Exception]) -> None:
    """Write a token unless there is a later one: a process that was suspended before this must not overwrite that."""
    while (seen := cell.read(engine)) != fencing_token:
        if _later(seen, fencing_token):
            raise error()
        cell.swap(engine, seen, fencing_token)


def _later(seen: str | None, fencing_token: str) -> bool:
    """Return whether a token is of another lease that is not an earlier one. Other texts are of no lease."""
    number, own = (None if text is None else _number(text) for text in (seen, fencing_token))
    return seen != fencing_token and number is not None and own is not None and number >= own


def _number(fencing_token: str) -> int | None:
    """Return the number of the lease of a token; None if the text is not a token."""
    number, _, token = fencing_token.partition(" ")
    return int(number) if number.isdecimal() and token else None
