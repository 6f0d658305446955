"""Runs written to a server, request by request."""

import hashlib
import json
from collections.abc import Iterator, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from sweep.tracking.bulk import Change, Files, Points, Texts, folder_of

METRICS_AT_ONCE = 1000
"""The most that MLflow takes in one batch."""
TEXTS_AT_ONCE = 100
"""The most params, and the most tags, that MLflow takes in one batch."""
BYTES_AT_ONCE = 500_000
"""The most of them in one batch, as JSON; MLflow accepts a request of twice that."""
KEY = "sweep.key"
"""The tag that one run has: what tells whether a run was created by a request whose reply was lost."""


def key_after(key: str, deleted: str) -> str:
    """The key of a run in the place of a deleted one: the same, however often it is asked for, and of no other run.

    Args:
        key: that the deleted run would have if nothing had been deleted before it.
        deleted: its id, or what stands for it.
    """
    return f"{key}.{hashlib.sha256(deleted.encode()).hexdigest()[:16]}"


class ClientWriter:
    """Whatever MLflow's client can write to: a server, a plug-in's store. It retries, for minutes, by itself.

    What a change says of points comes first, the tags last: a run that has them is whole.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def create(self, experiment_id: str, name: str, tags: Texts, params: Texts, files: Files | None = None) -> str:
        known = self._find(experiment_id, tags[KEY]) if KEY in tags else []
        run_id: str = (
            known[0] if known else self._client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
        )
        for batch in text_batches(params):
            self._client.log_batch(run_id, params=[Param(*param) for param in batch.items()])
        if files:
            self.attach(run_id, files)
        return run_id

    def _find(self, experiment_id: str, key: str) -> list[str]:
        return [run.info.run_id for run in self._client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'")]

    def write(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for batch in batches(change.points):
                metrics = [Metric(key, value, at, step) for key, step, at, value in batch]
                self._client.log_batch(change.run_id, metrics=metrics)
        for change in changes:
            if change.status == "RUNNING":
                self._client.update_run(change.run_id, change.status)  # MLflow has no request that takes an end away
            elif change.status is not None:
                self._client.set_terminated(change.run_id, change.status)
            for texts in text_batches(change.tags):
                self._client.log_batch(change.run_id, tags=[RunTag(*tag) for tag in texts.items()])

    def attach(self, run_id: str, files: Files) -> None:
        with folder_of(files) as folder:
            self._client.log_artifacts(run_id, folder)

    def delete(self, run_id: str) -> None:
        if self._client.get_run(run_id).info.status == "RUNNING":
            self._client.set_terminated(run_id, "KILLED")
        self._client.delete_run(run_id)


def text_batches(texts: Texts) -> Iterator[dict[str, str]]:
    """Yield params or tags in batches that MLflow accepts: at most TEXTS_AT_ONCE entries and BYTES_AT_ONCE bytes."""
    batch: dict[str, str] = {}
    size = 0
    for key, text in texts.items():
        of_entry = len(json.dumps([key, text]))
        if batch and (len(batch) == TEXTS_AT_ONCE or size + of_entry > BYTES_AT_ONCE):
            yield batch
            batch, size = {}, 0
        batch[key] = text
        size += of_entry
    if batch:
        yield batch


def batches(points: Sequence[Points]) -> Iterator[list[tuple[str, int, int, float]]]:
    """Key, step, time and value of the points of several metrics, in batches as large as MLflow takes them."""
    batch = []
    for one in points:
        for first in range(0, len(one), METRICS_AT_ONCE):
            part = one.at(slice(first, first + METRICS_AT_ONCE))
            for step, at, value in zip(*(column.tolist() for column in part.columns), strict=True):
                batch.append((one.key, step, at, value))
                if len(batch) == METRICS_AT_ONCE:
                    yield batch
                    batch = []
    if batch:
        yield batch
