"""A store that takes nothing from a process that has lost the lease of its study."""

from collections.abc import Callable

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine

from sweep.database import Cell, end_suspended, fence
from sweep.tracking.store import Store

LEASE_TAG = "sweep.lease"
"""Tag of a study's run: the mark of the lease whose holder alone may write."""
IDLE = 30.0
"""Seconds after which a database may end a transaction whose process is suspended."""


def fence_store(
    store: Store,
    run_id: str,
    mark: str,
    error: Callable[[], Exception],
    check: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Mark a run as this process's, and let the store write nothing more once the run has another mark.

    The fence is around all that this process writes, of whatever run. In a database it is a part of each transaction.
    A server knows no such thing: `check` is asked before each request, and a process that is suspended between the two
    can still have that one carried out. A server that is not written to through a folder is marked only.

    Args:
        mark: of a lease: its number, which only rises, and a token.
        error: what is raised if the mark is another one.
        check: raises LeaseLostError where the lease is lost. For servers, see SpooledWriter.fence; for a database,
            where the mark was deleted or edited.

    Returns:
        What lifts the fence. MLflow has one engine for all clients of a process: lift it, or the next command of this
        process finds it.

    Raises:
        Exception: `error`, if the run has the mark of a later lease.
    """
    tracking = store.client._tracking_client.store  # MLflow gives no other way to the engine that it writes with
    if not isinstance(tracking, SqlAlchemyStore):
        if _later(store.client.get_run(run_id).data.tags.get(LEASE_TAG), mark):
            raise error()
        store.client.set_tag(run_id, LEASE_TAG, mark)
        return store.spool.fence(check) if store.spool else lambda: None
    cell = Cell("tags", "value", {"run_uuid": run_id, "key": LEASE_TAG})
    store.hooks.patience("tracking.uri")(lambda: _mark(cell, tracking.engine, mark, error))
    end_suspended(tracking.engine, IDLE)

    def ours(seen: str | None) -> bool:
        """Return whether the run has the mark. Where a person has deleted or edited it, the lease itself decides."""
        if seen == mark or (seen is not None and _number(seen) is not None):
            return seen == mark
        check()
        return True

    return fence(tracking.engine, cell, ours, error)


def _mark(cell: Cell, engine: Engine, mark: str, error: Callable[[], Exception]) -> None:
    """Write a mark, unless there is a later one: whoever was suspended before he could must not write it any more."""
    while (seen := cell.read(engine)) != mark:
        if _later(seen, mark):
            raise error()
        cell.swap(engine, seen, mark)


def _later(seen: str | None, mark: str) -> bool:
    """Whether a mark is of another lease, not of an earlier one. A text that is no mark is not of a lease at all."""
    number, own = (None if text is None else _number(text) for text in (seen, mark))
    return seen != mark and number is not None and own is not None and number >= own


def _number(mark: str) -> int | None:
    """Return the number of the lease that a mark is of; None of a text that is no mark."""
    number, _, token = mark.partition(" ")
    return int(number) if number.isdecimal() and token else None
