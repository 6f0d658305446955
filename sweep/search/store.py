"""Where studies are kept: opened by name, refused under another configuration."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.study import Study
from sqlalchemy.exc import SQLAlchemyError

from sweep.config import StudyConfig
from sweep.database import check_database, is_database
from sweep.validation import InvalidValueError

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
            storage=config.storage,
            direction=config.direction_of_metric,
            pruner=pruner,
            load_if_exists=True,
        )
    except (SQLAlchemyError, RuntimeError, ValueError, ImportError) as error:
        raise InvalidValueError("study.storage", config.storage, f"cannot keep a study: {error}") from error
    stored = study.user_attrs.get(IDENTITY)
    if stored is None and (
        study.get_trials(deepcopy=False) or study.direction.name.lower() != config.direction_of_metric
    ):
        raise InvalidValueError("study.name", name, "is a study of another program; choose another name")
    if stored is None:
        study.set_user_attr(UID, uuid.uuid4().hex)
        study.set_user_attr(IDENTITY, json.dumps(identity, sort_keys=True))
    else:
        _refuse_difference(name, json.loads(stored), json.loads(json.dumps(identity)))
    return study, study.user_attrs[UID]


def _refuse_difference(name: str, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [key for key in sorted({*stored, *asked}) if stored.get(key) != asked.get(key)]
    if differing:
        lines = "".join(f"\n  {key}: {stored.get(key)} in the study, {asked.get(key)} asked for" for key in differing)
        raise InvalidValueError("study.name", name, f"is a study of another configuration; choose another name{lines}")
