"""A tracking server, through MLflow's own client of its REST API but without MLflow's retries."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.rest_utils import http_request, verify_rest_response

from sweep.tracking.bulk import Texts

T = TypeVar("T")

TIMEOUT_SECONDS = 10.0
"""How long a server may be silent; for a request that is retried, up to six times that."""
TRANSIENT_STATUSES = frozenset({401, 403, 407, 408, 425, 429})
"""HTTP statuses below 500 that a retry may not get: too many requests, expired credentials."""
BAD_REQUEST_TRIES = 5
"""How often a bad request is retried: MLflow reports errors of its own database as bad requests, too."""
TEXTS_PER_REQUEST, BYTES_PER_REQUEST = 100, 500_000
"""The most params, and the most tags, that MLflow accepts in one request; half of the bytes that it accepts."""


class NoAnswerError(Exception):
    """There was no answer, or one that asks for a retry. The request may have been carried out, or may be later."""


class RefusedError(Exception):
    """MLflow understood a request and refuses it; a retry would be refused too."""


class _SingleRequests(RestStore):
    """MLflow's REST store with one try per request: MLflow's retries would create a run twice after a lost reply."""

    timeout = TIMEOUT_SECONDS

    def request(self, path: str, method: str, **sent: Any) -> Any:
        response = http_request(  # type: ignore[no-untyped-call]
            self.get_host_creds(),
            path,
            method,
            max_retries=0,
            retry_codes=(),
            raise_on_status=False,
            timeout=self.timeout,
            **sent,
        )
        return verify_rest_response(response, path)

    def _call_endpoint(self, api: Any, json_body: str | None = None, *given: object, **named: object) -> Any:
        path, method = self._METHOD_TO_INFO[api]
        body = json.loads(json_body) if json_body else None
        answer, message = self.request(path, method, **{"params" if method == "GET" else "json": body}), api.Response()
        parse_dict(answer.json(), message)  # type: ignore[no-untyped-call]
        return message


class Server:
    """A tracking server, or another store that MLflow has a client for.

    Every method raises NoAnswerError or RefusedError.

    Args:
        uri: http, https, or a scheme of an MLflow plug-in.
        timeout: seconds that it may be silent.
    """

    def __init__(self, uri: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self._uri, self._timeout = uri, timeout
        self._store: Any
        if uri.startswith(("http://", "https://")):
            self._store = _SingleRequests(partial(get_default_host_creds, uri))  # type: ignore[no-untyped-call]
        else:
            self._store = MlflowClient(tracking_uri=uri)._tracking_client.store

    @property
    def name(self) -> str:
        """The address without the user and password that it may contain."""
        parts = urlsplit(self._uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def ask(self, call: Callable[[Any], T], tried: int = 0) -> T:
        """Return what a call of MLflow's store returns.

        Args:
            call: one request.
            tried: how many requests before this one had no answer.
        """
        if isinstance(self._store, _SingleRequests):
            self._store.timeout = self._timeout * min(2**tried, 6)
        try:
            return call(self._store)
        except MlflowException as error:
            text = reason_of(error)[:300]
            understood = isinstance(error, RestException) or not isinstance(self._store, _SingleRequests)
            status = error.get_http_status_code()  # type: ignore[no-untyped-call]
            final = understood and 400 <= status < 500 and status not in TRANSIENT_STATUSES
            if final and (error.error_code != "BAD_REQUEST" or tried >= BAD_REQUEST_TRIES):
                raise RefusedError(text) from error
            raise NoAnswerError(text) from error
        except Exception as error:  # of requests, of a plug-in, of a page that is not MLflow's
            raise NoAnswerError(reason_of(error)) from error

    def put(self, artifact_uri: str, name: str, file: Path, tried: int = 0) -> None:
        """Store a file as an artifact, at the server or by MLflow's client of another storage."""

        def put(store: Any) -> None:
            repository = get_artifact_repository(artifact_uri, tracking_uri=self._uri)
            folder, _, base = name.rpartition("/")
            if isinstance(repository, HttpArtifactRepository) and isinstance(store, _SingleRequests):
                at_host = _SingleRequests(partial(get_default_host_creds, repository.artifact_uri))  # type: ignore[no-untyped-call]
                at_host.timeout = store.timeout
                headers = {"Content-Type": _guess_mime_type(base)}  # type: ignore[no-untyped-call]
                at_host.request(f"/{name}", "PUT", data=file.read_bytes(), extra_headers=headers)
            else:
                repository.log_artifact(str(file), folder or None)  # type: ignore[no-untyped-call]

        self.ask(put, tried)


def text_batches(texts: Texts) -> Iterator[dict[str, str]]:
    """Yield params or tags in batches that MLflow accepts."""
    batch: dict[str, str] = {}
    size = 0
    for key, text in texts.items():
        of_entry = len(json.dumps([key, text]))
        if batch and (len(batch) == TEXTS_PER_REQUEST or size + of_entry > BYTES_PER_REQUEST):
            yield batch
            batch, size = {}, 0
        batch[key] = text
        size += of_entry
    if batch:
        yield batch


def reason_of(error: Exception) -> str:
    """Return the innermost of the messages that HTTP clients nest in parentheses."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first_line.rpartition("Caused by ")[2].rstrip(")") if "Caused by " in first_line else first_line
