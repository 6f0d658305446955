"""Opens a study by its name, and refuses it under another configuration."""

import json
import math
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import RDBStorage
from optuna.study import Study
from sqlalchemy.exc import SQLAlchemyError

from sweep.config import StudyConfig
from sweep.database import (
    BUSY_TIMEOUT_SECONDS,
    Cell,
    LockRetry,
    WriteAheadConnection,
    check_database,
    create_file,
    file_of,
    is_database,
    tell_at_once,
)
from sweep.errors import InvalidValueError, UnavailableError
from sweep.passwords import without_passwords
from sweep.space import Space
from sweep.validation import refuse_difference

optuna.logging.set_verbosity(optuna.logging.ERROR)

IDENTITY = "sweep.identity"
"""User attribute of a study: everything that changes its results, flattened, as JSON."""

UID = "sweep.uid"
"""User attribute of a study: the id by which its MLflow run is found."""


LONGEST = 512
"""The most characters of the name of a study or parameter in Optuna's tables; SQLite has no limit."""


def check_storage(config: StudyConfig, name: str, space: Space) -> None:
    """Refuse a storage that cannot be used, and names that are too long for it, before anything is created.

    Raises:
        InvalidValueError: names study.storage, study.name or the searched key.
    """
    limit = math.inf if file_of(config.storage) is not None else LONGEST
    if len(name) > limit:
        rule = f"has {len(name)} characters; in this study.storage at most {LONGEST} are possible"
        raise InvalidValueError("study.name", name, rule)
    for parameter, dimension in [(b.parameter(d), d) for b in space.branches for d in b.dimensions]:
        if len(parameter) > limit:
            rule = f"its name in Optuna would have {len(parameter)} characters; at most {LONGEST} are possible"
            raise InvalidValueError(dimension.key, dimension.expression, rule)
    if is_database(config.storage) or not config.storage.startswith("redis"):
        check_database("study.storage", config.storage, table="studies")


def open_study(
    config: StudyConfig,
    name: str,
    identity: Mapping[str, Any],
    pruner: BasePruner,
    say: Callable[[str], None] = lambda line: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Study, str]:
    """Open the study of that name, or create it; return it and the id that ties its record to it.

    A locked database is retried; a long wait is shown, and can be interrupted.

    Args:
        identity: everything that changes results, flattened; it is compared with that of the stored study.

    Raises:
        InvalidValueError: if another program created the stored study, or its configuration differs; the message lists
            the differences.
    """
    patiently = LockRetry(without_passwords(config.storage), say, interrupted)
    try:
        study = patiently(lambda: _study(config, name, pruner))
    except InvalidValueError:
        raise
    except (OSError, SQLAlchemyError, RuntimeError, ValueError, ImportError) as error:
        raise InvalidValueError("study.storage", config.storage, f"cannot keep a study: {error}") from error
    patiently(lambda: _settle(study, config, name, identity))
    return study, patiently(lambda: str(study.user_attrs[UID]))


def _study(config: StudyConfig, name: str, pruner: BasePruner) -> Study:
    return optuna.create_study(
        study_name=name,
        storage=_storage(config.storage),
        direction=config.direction_of_metric,
        pruner=pruner,
        load_if_exists=True,
    )


def _settle(study: Study, config: StudyConfig, name: str, identity: Mapping[str, Any]) -> None:
    """Write id and identity of a new study; if several commands do so at once, those of the first one stay."""
    _check_stored(study, config, name, identity)
    if IDENTITY not in study.user_attrs:
        for key, value in ((UID, uuid.uuid4().hex), (IDENTITY, json.dumps(identity, sort_keys=True))):
            attribute(study, key).swap(rdb(study).engine, None, json.dumps(value))
        _check_stored(study, config, name, identity)


def rdb(study: Study) -> RDBStorage:
    """Return the storage of a study without Optuna's cache. Optuna has no public way to it."""
    storage = getattr(study._storage, "_backend", study._storage)
    assert isinstance(storage, RDBStorage)
    return storage


def attribute(study: Study, key: str) -> Cell:
    """Return the cell of the database with a user attribute of a study, as JSON."""
    return Cell("study_user_attributes", "value_json", {"study_id": study._study_id, "key": key})


def _storage(uri: str) -> RDBStorage:
    """Open Optuna's storage of a database: it fails at once while that is locked; SQLite uses a write-ahead log.

    Raises:
        InvalidValueError: names study.storage, and how to upgrade it, if another version of Optuna has written it.
    """
    file = file_of(uri)
    written_ahead = {"connect_args": {"factory": WriteAheadConnection, "timeout": BUSY_TIMEOUT_SECONDS}}
    try:
        if file is not None and not file.exists():
            create_file(file, lambda new: RDBStorage(new).engine.dispose())
        storage = RDBStorage(uri, engine_kwargs=None if file is None else written_ahead)
    except (AssertionError, RuntimeError) as error:  # an assertion if the version is missing
        if isinstance(error, UnavailableError):
            raise
        said = str(error).replace("`$ ", "`").replace("$STORAGE_URL", uri)
        rule = f"has tables of another version of Optuna. {said}".strip()
        raise InvalidValueError("study.storage", uri, rule) from error
    tell_at_once(storage.engine)
    return storage


def check_study(config: StudyConfig, name: str, identity: Mapping[str, Any]) -> None:
    """Refuse what `open_study` would, without creating anything.

    Raises:
        InvalidValueError: if the stored study of that name has another configuration, or is another program's.
    """
    file = file_of(config.storage)
    if file is not None and not file.exists():
        return
    with suppress(KeyError):  # there is no study of that name
        _check_stored(optuna.load_study(study_name=name, storage=_storage(config.storage)), config, name, identity)


def _check_stored(study: Study, config: StudyConfig, name: str, identity: Mapping[str, Any]) -> None:
    attributes, directions = study.user_attrs, [direction.name.lower() for direction in study.directions]
    if directions != [config.direction_of_metric]:
        asked = f"{config.metric} is to {config.direction_of_metric}"
        rule = f"is a study of another program: it is to {' and '.join(directions)}, and {asked}; choose another name"
        raise InvalidValueError("study.name", name, rule)
    if IDENTITY not in attributes:
        if study.get_trials(deepcopy=False):
            raise InvalidValueError("study.name", name, "is a study of another program; choose another name")
        return
    stored = None
    with suppress(TypeError, ValueError):
        stored = json.loads(attributes[IDENTITY])
    if not isinstance(stored, dict) or UID not in attributes:
        rule = f"cannot be continued: its user attribute {IDENTITY} or {UID} was deleted or edited; choose another name"
        raise InvalidValueError("study.name", name, rule)
    refuse_difference(name, stored, json.loads(json.dumps(identity)))
