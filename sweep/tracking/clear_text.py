"""Refuse to send passwords over unencrypted connections."""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

from mlflow.utils.credentials import read_mlflow_creds
from requests.utils import get_netrc_auth

from sweep.errors import InvalidValueError


def check_clear_text(uri: str) -> None:
    """Refuse to send a password over plain http to another machine, because others could read it on the way.

    Besides the URI, MLflow takes one from MLFLOW_TRACKING_* and ~/.mlflow/credentials, and requests from ~/.netrc.
    """
    parts = urlsplit(uri)
    if parts.scheme.lower() != "http" or _is_loopback(parts.hostname or ""):
        return
    token, (user, password) = os.environ.get("MLFLOW_TRACKING_TOKEN"), read_mlflow_creds()
    if "@" in parts.netloc or token or user or password or get_netrc_auth(uri):
        rule = "would send a password in clear text to another machine; use https, or give none"
        raise InvalidValueError("tracking.uri", uri, rule)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False
