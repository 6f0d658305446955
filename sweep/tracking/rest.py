"""MLflow's REST API, each request once: who asks again must know whether the first one was carried out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.mlflow_tags import MLFLOW_USER
from mlflow.utils.rest_utils import http_request
from requests import Response

from sweep.tracking.bulk import Points, Texts, folder_of
from sweep.tracking.server import KEY, batches, text_batches

TIMEOUT = 10.0
"""Seconds that a server may be silent; of a request that is tried again, up to six times that."""

MAY_PASS = frozenset({401, 403, 407, 408, 425, 429})
"""HTTP statuses below 500 that another try may not have: too many requests, credentials that have expired."""

TRIES = 5
"""Of what MLflow calls a bad request: it calls trouble with its own database so, too."""


class NoAnswerError(Exception):
    """No answer, or one that says to try again: the request may have been carried out, or may be later."""


class RefusedError(Exception):
    """MLflow has understood a request and does not carry it out, however often it is asked."""


class Server:
    """A tracking server. Every method raises NoAnswerError or RefusedError, and takes how often it was tried before.

    Args:
        uri: http or https.
        timeout: seconds that it may be silent.
    """

    def __init__(self, uri: str, timeout: float = TIMEOUT) -> None:
        self._uri, self._timeout = uri, timeout

    @property
    def name(self) -> str:
        """The address without the password that it may hold."""
        parts = urlsplit(self._uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def find(self, experiment_id: str, key: str, tried: int) -> list[str]:
        """The active runs that have a key, the oldest first."""
        body = {"experiment_ids": [experiment_id], "filter": f"tags.`{KEY}` = '{key}'", "max_results": 100}
        found = [run["info"] for run in self._ask("POST", "runs/search", tried, body).get("runs", [])]
        return [info["run_id"] for info in sorted(found, key=lambda info: (info["start_time"], info["run_id"]))]

    def create(self, experiment_id: str, name: str, tags: Texts, start: int, tried: int) -> str:
        """A new run, even where the first try has created one; its id."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "user_id": tags.get(MLFLOW_USER, "unknown"),
            "start_time": start,
            "tags": _entries(tags.items()),
        }
        return str(self._ask("POST", "runs/create", tried, body)["run"]["info"]["run_id"])

    def log(self, run_id: str, tried: int, **entries: list[dict[str, Any]]) -> None:
        """Metrics, params or tags of a run; what it has already, it has once."""
        self._ask("POST", "runs/log-batch", tried, {"run_id": run_id, **entries})

    def set_status(self, run_id: str, status: str, end: int | None, tried: int) -> None:
        """A status, and the end of a run; MLflow has no request that takes an end away."""
        ended = {} if end is None else {"end_time": end}
        self._ask("POST", "runs/update", tried, {"run_id": run_id, "status": status, **ended})

    def info(self, run_id: str, tried: int) -> dict[str, Any]:
        """Status, artifact_uri and others of a run."""
        return dict(self._ask("GET", "runs/get", tried, {"run_id": run_id})["run"]["info"])

    def delete(self, run_id: str, tried: int) -> None:
        """Delete a run, as MLflow does: it can be restored."""
        self._ask("POST", "runs/delete", tried, {"run_id": run_id})

    def put(self, artifact_uri: str, name: str, content: bytes, tried: int) -> None:
        """A file of a run, where the server or the client of its storage puts it."""
        repository = get_artifact_repository(artifact_uri, tracking_uri=self._uri)
        if isinstance(repository, HttpArtifactRepository):
            sent = {"extra_headers": {"Content-Type": _guess_mime_type(name)}, "data": content}  # type: ignore[no-untyped-call]
            self._judge(self._request(repository.artifact_uri, f"/{name}", "PUT", tried, **sent), tried)
            return
        try:
            with folder_of({name: content}) as folder:
                repository.log_artifacts(folder)  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the client of another storage raises
            raise NoAnswerError(f"{name} cannot be put into {artifact_uri}: {error}") from error

    def _ask(self, method: str, what: str, tried: int, body: Mapping[str, Any]) -> dict[str, Any]:
        sent = {"params": body} if method == "GET" else {"json": body}
        answer = self._request(self._uri, f"/api/2.0/mlflow/{what}", method, tried, **sent)
        return self._judge(answer, tried)

    def _request(self, host: str, path: str, method: str, tried: int, **sent: Any) -> Response:
        """With MLflow's own credentials, and none of the retries of which it would not tell."""
        timeout = self._timeout * min(2**tried, 6)
        try:
            creds = get_default_host_creds(host)  # type: ignore[no-untyped-call]
            return http_request(  # type: ignore[no-untyped-call, no-any-return]
                creds, path, method, max_retries=0, retry_codes=(), raise_on_status=False, timeout=timeout, **sent
            )
        except MlflowException as error:
            raise NoAnswerError(reason_of(error)) from error

    def _judge(self, answer: Response, tried: int) -> dict[str, Any]:
        """The contents of an answer; a page of something between here and the server is none."""
        try:
            content = answer.json() if answer.text.strip() else {}
        except ValueError:
            content = None
        if answer.status_code == 200 and isinstance(content, dict):
            return content
        code = content.get("error_code") if isinstance(content, dict) else None
        reason = content.get("message", "") if code and isinstance(content, dict) else answer.text
        text = f"HTTP {answer.status_code} {reason}".strip()[:300]
        final = code is not None and 400 <= answer.status_code < 500 and answer.status_code not in MAY_PASS
        if final and (code != "BAD_REQUEST" or tried >= TRIES):
            raise RefusedError(text)
        raise NoAnswerError(text)


def metrics_of(points: Sequence[Points]) -> Iterator[list[dict[str, Any]]]:
    """The points of several metrics, in batches as large as MLflow takes them."""
    for batch in batches(points):
        yield [{"key": key, "value": _number(value), "timestamp": at, "step": step} for key, step, at, value in batch]


def texts_of(texts: Texts) -> Iterator[list[dict[str, str]]]:
    """Params or tags, in batches that MLflow accepts."""
    for batch in text_batches(texts):
        yield _entries(batch.items())


def _entries(texts: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in texts]


def _number(value: float) -> float | str:
    """As protocol buffers write it in JSON, which has no word for what is no number."""
    if value - value == 0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def reason_of(error: Exception) -> str:
    """The innermost of the messages that HTTP clients nest in parentheses."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first_line.rpartition("Caused by ")[2].rstrip(")") if "Caused by " in first_line else first_line
