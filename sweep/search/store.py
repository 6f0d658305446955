"""Where studies are kept: opened by name, refused under another configuration."""

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import RDBStorage
from optuna.study import Study
from sqlalchemy.exc import SQLAlchemyError

from sweep.config import StudyConfig
from sweep.database import WriteAheadConnection, check_database, file_of, is_database
from sweep.validation import InvalidValueError, refuse_difference

optuna.logging.set_verbosity(optuna.logging.ERROR)

IDENTITY = "sweep.identity"
"""User attribute of a study: all that changes its results, flattened, as JSON."""

UID = "sweep.uid"
"""User attribute of a study: what its MLflow run is found by."""


def check_storage(config: StudyConfig) -> None:
    """Refuse a storage that cannot be used, before anything is created.

    Raises:
        InvalidValueError: names study.storage.
    """
    if is_database(config.storage) or not config.storage.startswith("redis"):
        check_database("study.storage", config.storage, table="studies")


def open_study(config: StudyConfig, name: str, identity: Mapping[str, Any], pruner: BasePruner) -> tuple[Study, str]:
    """The study of that name, created where there is none, and the id that ties its record to it.

    Args:
        identity: everything that changes results, flattened; compared with that of the stored study.

    Raises:
        InvalidValueError: if the stored study is of another configuration, with the difference, or not of this program.
    """
    try:
        study = optuna.create_study(
            study_name=name,
            storage=_storage(config.storage),
            direction=config.direction_of_metric,
            pruner=pruner,
            load_if_exists=True,
        )
    except (SQLAlchemyError, RuntimeError, ValueError, ImportError) as error:
        raise InvalidValueError("study.storage", config.storage, f"cannot keep a study: {error}") from error
    _check_stored(study, config, name, identity)
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(UID, uuid.uuid4().hex)
        study.set_user_attr(IDENTITY, json.dumps(identity, sort_keys=True))
    return study, study.user_attrs[UID]


def _storage(uri: str) -> RDBStorage:
    """Optuna's storage of a database; a SQLite file is written ahead."""
    if file_of(uri) is None:
        return RDBStorage(uri)
    return RDBStorage(uri, engine_kwargs={"connect_args": {"factory": WriteAheadConnection}})


def check_study(config: StudyConfig, name: str, identity: Mapping[str, Any]) -> None:
    """Refuse what `open_study` would, without creating anything.

    Raises:
        InvalidValueError: if a study of that name is stored that is of another configuration, or not of this program.
    """
    file = file_of(config.storage)
    if file is not None and not file.exists():
        return
    with suppress(KeyError):  # there is none of that name
        _check_stored(optuna.load_study(study_name=name, storage=config.storage), config, name, identity)


def _check_stored(study: Study, config: StudyConfig, name: str, identity: Mapping[str, Any]) -> None:
    stored = study.user_attrs.get(IDENTITY)
    if stored is None and (
        study.get_trials(deepcopy=False) or study.direction.name.lower() != config.direction_of_metric
    ):
        raise InvalidValueError("study.name", name, "is a study of another program; choose another name")
    if stored is not None:
        refuse_difference(name, json.loads(stored), json.loads(json.dumps(identity)))
