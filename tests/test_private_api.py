"""Every private or undocumented name of another library that sweep uses.

Such a name can change in any release. After an upgrade this file says which of them did, and why sweep needs them. A
new use must be added to `USES`; a name that nobody uses any more must be removed.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Use:
    """Names of one object of a library.

    Args:
        owner: a module, or `module:object`; the names are its attributes.
        names: one or several, separated by spaces.
        where: the packages and files below sweep/ that use them, separated by spaces.
        why: the reason for which the public interface is not enough.
        optional: whether the library, or this build of it, may lack the owner.
    """

    owner: str
    names: str
    where: str
    why: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.owner}: {self.names}"


TABLES = "the rows of a trial are written in one transaction; the storage needs one for each attribute"
BULK = "rows are inserted in bulk; log_batch creates an object for each"
ENGINE = "the client has no public way to the database engine, which is fenced and written to"
CHECKS = "a bulk write accepts what log_batch accepts"
SERVER = "requests to a server need the client's address, credentials and retries"
PARSER = "a sweep expression is parsed as Hydra parses it, and examined before anything is evaluated"
MODULES = "parameters, buffers and submodules are replaced in place, under each of their names"
FOREACH = "one kernel for all tensors; torch's own optimizers use it, and there is no public form"
ADDRESS = "errors name the key; a node does not tell its place in the configuration"
RAW = "a value is examined before its interpolations are resolved"

USES = [
    Use("optuna.storages._rdb.models", "StudyModel TrialModel TrialParamModel", "proposals", TABLES),
    Use("optuna.storages._rdb.models", "TrialUserAttributeModel TrialSystemAttributeModel", "proposals", TABLES),
    Use("optuna.storages._rdb.models", "TrialValueModel TrialIntermediateValueModel", "proposals", TABLES),
    Use("optuna.study:Study", "_storage _study_id", "proposals", "a study does not tell its storage and its id"),
    Use("optuna.storages._cached_storage:_CachedStorage", "_backend", "proposals", "the database behind the cache"),
    Use("optuna.trial:FrozenTrial", "_trial_id", "proposals", "a stored trial is continued by its id"),
    Use("optuna.distributions:BaseDistribution", "_contains", "proposals", "whether a trial of another program fits"),
    Use("optuna.samplers._tpe", "_truncnorm", "proposals", "the module of the function that is replaced"),
    Use(
        "optuna.samplers._tpe._truncnorm", "_log_ndtr", "proposals", "replaced by SciPy's: half the time of a proposal"
    ),
    Use("optuna.samplers:QMCSampler", "_find_sample_id", "proposals", "point n is proposed as trial n"),
    Use("mlflow:MlflowClient", "_tracking_client", "tracking", ENGINE),
    Use("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore", "tracking", ENGINE),
    Use("mlflow.store.tracking.dbmodels.models", "SqlExperiment SqlRun SqlTag SqlParam", "tracking", BULK),
    Use("mlflow.store.tracking.dbmodels.models", "SqlMetric SqlLatestMetric", "tracking", BULK),
    Use("mlflow.utils.uri", "append_to_uri_path", "tracking", BULK),
    Use("mlflow.utils.mlflow_tags", "MLFLOW_RUN_NAME MLFLOW_USER", "tracking", "the tags that create_run sets"),
    Use("mlflow.utils.validation", "_validate_metric _validate_param _validate_tag", "tracking", CHECKS),
    Use("mlflow.utils.validation", "MAX_PARAM_VAL_LENGTH MAX_TAG_VAL_LENGTH MAX_ENTITY_KEY_LENGTH", "tracking", CHECKS),
    Use("mlflow.store.artifact.artifact_repository_registry", "get_artifact_repository", "tracking", "files of a run"),
    Use("mlflow.store.artifact.local_artifact_repo", "LocalArtifactRepository", "tracking", "files without a copy"),
    Use("mlflow.store.artifact.http_artifact_repo", "HttpArtifactRepository", "tracking", SERVER),
    Use("mlflow.utils.credentials", "get_default_host_creds read_mlflow_creds", "tracking", SERVER),
    Use("mlflow.utils.mime_type_utils", "_guess_mime_type", "tracking", SERVER),
    Use("mlflow.utils.rest_utils", "http_request verify_rest_response", "tracking", SERVER),
    Use("mlflow.store.tracking.rest_store", "RestStore", "tracking", SERVER),
    Use("mlflow.store.tracking.rest_store:RestStore", "_METHOD_TO_INFO", "tracking", SERVER),
    Use("mlflow.utils.proto_json_utils", "parse_dict", "tracking", SERVER),
    Use("mlflow.utils.file_utils", "local_file_uri_to_path", "tracking", "the folder with the files of a run"),
    Use("mlflow.protos.databricks_pb2", "RESOURCE_DOES_NOT_EXIST ErrorCode", "tracking", "the codes of its errors"),
    Use("mlflow.store.db.utils", "_get_alembic_config", "tracking", "the versions that the tables have had"),
    Use("mlflow.entities:RunData", "_metric_objs", "tracking", "a run with joined texts keeps its metrics"),
    Use("hydra.core.override_parser.overrides_parser", "OverridesParser", "requests", PARSER),
    Use("hydra.core.override_parser.types", "ChoiceSweep IntervalSweep RangeSweep", "requests", PARSER),
    Use("hydra.core.override_parser.types", "Override OverrideType Quote QuotedString", "requests", PARSER),
    Use("omegaconf.basecontainer", "BaseContainer", "requests", ADDRESS),
    Use("omegaconf:Node", "_get_full_key _get_parent", "requests", ADDRESS),
    Use("omegaconf:DictConfig", "_get_node", "requests", RAW),
    Use("torch.nn:Module", "_modules _parameters _buffers _non_persistent_buffers_set", "training", MODULES),
    Use("torch.nn:Module", "_apply", "training", "moves a model, and keeps the type of each of its tensors"),
    Use("torch.nn.Module:state_dict", "_metadata", "training", "the versions of the modules in a state dict"),
    Use("torch", "_foreach_add_ _foreach_sub_ _foreach_mul _foreach_mul_ _foreach_sign_", "training", FOREACH),
    Use("torch", "_foreach_copy_ _foreach_lerp_ _foreach_clamp_min_ _foreach_clamp_max_", "training", FOREACH),
    Use("torch", "_dynamo", "training", "imported ahead of the first optimizer, which would wait for it"),
    Use("torch:sparse_coo_tensor", "_indices _values", "training", "parts of a sparse tensor that is not coalesced"),
    Use("torch:UntypedStorage", "_cdata", "training", "tells whether two tensors share memory"),
    Use("torch.utils._python_dispatch", "TorchDispatchMode", "training", "counts operations and their memory"),
    Use("torch.utils._pytree", "tree_leaves", "training", "the tensors among the results of an operation"),
    Use("torch.utils.flop_counter", "flop_registry", "training", "the operations whose cost torch knows"),
    Use("torch.distributed:ProcessGroupGloo", "_Options", "training", "a group of its own, without a default group"),
    Use("torch.distributed:ProcessGroupGloo._Options", "_timeout _devices", "training", "bound to 127.0.0.1"),
    Use(
        "torch.distributed:ProcessGroupNCCL.Options", "_timeout", "training", "a lost worker is noticed", optional=True
    ),
    Use("transformers:Trainer", "_save_checkpoint", "integrations", "its checkpoint at a step of ours", optional=True),
    Use("lightning.pytorch.loops.fit_loop:_FitLoop", "_data_fetcher", "integrations", "batches taken", optional=True),
]

UNDOCUMENTED = re.compile(
    r"mlflow\.(store|utils|protos)\b.*|hydra\.core\.override_parser\b.*|omegaconf\.basecontainer|torch\.utils\.flop_counter"
)
"""Modules without an underscore that are no part of the documented interface."""
STANDARD = {"_exit", "_replace"}
"""Documented names of Python's own library: `os._exit`, and a named tuple's method."""
LISTED = {name: use for use in USES for name in use.names.split()}


def instance(owner: str) -> Any:
    """Return an object with the attributes that only an instance has; None for every other owner."""
    import mlflow
    import optuna
    import torch
    from torch import distributed

    made: dict[str, Callable[[], Any]] = {
        "optuna.study:Study": optuna.create_study,
        "optuna.storages._cached_storage:_CachedStorage": lambda: optuna.storages.get_storage("sqlite://"),
        "optuna.trial:FrozenTrial": lambda: optuna.create_trial(value=1.0),
        "mlflow:MlflowClient": mlflow.MlflowClient,
        "mlflow.entities:RunData": mlflow.entities.RunData,
        "torch.nn:Module": torch.nn.Module,
        "torch.nn.Module:state_dict": lambda: torch.nn.Linear(1, 1).state_dict(),
        "torch:sparse_coo_tensor": lambda: torch.eye(2).to_sparse(),
        "torch:UntypedStorage": lambda: torch.zeros(1).untyped_storage(),
        "torch.distributed:ProcessGroupGloo._Options": lambda: distributed.ProcessGroupGloo._Options(),  # type: ignore[attr-defined]
    }
    return made[owner]() if owner in made else None


def found(owner: str) -> Any:
    """Return a module, or an object of one."""
    module, _, path = owner.partition(":")
    here: Any = importlib.import_module(module)
    for name in path.split(".") if path else ():
        here = getattr(here, name)
    return here


@pytest.mark.parametrize("use", USES, ids=str)
def test_the_library_has_the_name(use: Use) -> None:
    try:
        here = instance(use.owner)
        here = found(use.owner) if here is None else here
    except (ImportError, AttributeError):
        if use.optional:
            pytest.skip(f"{use.owner} is not installed")
        raise
    for name in use.names.split():
        try:
            has = hasattr(here, name) or (inspect.isclass(here) and name in here.__init__.__code__.co_names)
            assert has or importlib.import_module(f"{use.owner}.{name}"), name
        except ImportError:
            pytest.fail(f"{use.owner} has no {name} any more. sweep/{use.where} needs it: {use.why}")


SIGNATURES = {
    "optuna.samplers:QMCSampler._find_sample_id": "self study search_space",
    "optuna.storages._rdb.models:TrialValueModel.value_to_stored_repr": "value",
    "optuna.storages._rdb.models:TrialIntermediateValueModel.intermediate_value_to_stored_repr": "value",
    "optuna.distributions:BaseDistribution._contains": "self param_value_in_internal_repr",
    "mlflow.utils.validation:_validate_metric": "key value timestamp step path",
    "mlflow.utils.validation:_validate_param": "key value path",
    "mlflow.utils.validation:_validate_tag": "key value path",
    "mlflow.utils.uri:append_to_uri_path": "uri paths",
    "mlflow.store.db.utils:_get_alembic_config": "db_url alembic_dir",
    "mlflow.store.artifact.local_artifact_repo:LocalArtifactRepository.log_artifact_from_stream": (
        "self stream artifact_file_name artifact_path"
    ),
    "omegaconf:Node._get_full_key": "self key",
    "omegaconf:DictConfig._get_node": (
        "self key validate_access validate_key throw_on_missing_value throw_on_missing_key"
    ),
    "torch.nn:Module._apply": "self fn recurse",
}


@pytest.mark.parametrize("place", SIGNATURES)
def test_a_function_takes_these_arguments(place: str) -> None:
    assert " ".join(inspect.signature(found(place)).parameters) == SIGNATURES[place]


COLUMNS = {
    "optuna.storages._rdb.models:StudyModel": "study_id",
    "optuna.storages._rdb.models:TrialModel": "trial_id number study_id state datetime_start datetime_complete",
    "optuna.storages._rdb.models:TrialParamModel": "param_id trial_id param_name param_value distribution_json",
    "optuna.storages._rdb.models:TrialValueModel": "trial_value_id trial_id objective value value_type",
    "optuna.storages._rdb.models:TrialIntermediateValueModel": (
        "trial_intermediate_value_id trial_id step intermediate_value intermediate_value_type"
    ),
    "optuna.storages._rdb.models:TrialUserAttributeModel": "trial_user_attribute_id trial_id key value_json",
    "optuna.storages._rdb.models:TrialSystemAttributeModel": "trial_system_attribute_id trial_id key value_json",
    "mlflow.store.tracking.dbmodels.models:SqlExperiment": "experiment_id artifact_location lifecycle_stage",
    "mlflow.store.tracking.dbmodels.models:SqlRun": (
        "run_uuid name source_type source_name entry_point_name user_id status start_time end_time source_version "
        "lifecycle_stage artifact_uri experiment_id deleted_time"
    ),
    "mlflow.store.tracking.dbmodels.models:SqlTag": "run_uuid key value",
    "mlflow.store.tracking.dbmodels.models:SqlParam": "run_uuid key value",
    "mlflow.store.tracking.dbmodels.models:SqlMetric": "run_uuid key value timestamp step is_nan",
    "mlflow.store.tracking.dbmodels.models:SqlLatestMetric": "run_uuid key value timestamp step is_nan",
}
READ_ONLY = ("StudyModel", "SqlExperiment")
"""Tables that rows are not inserted into."""


@pytest.mark.parametrize("place", COLUMNS)
def test_a_table_has_the_columns_that_are_written(place: str) -> None:
    columns, wanted = {column.name for column in found(place).__table__.columns}, set(COLUMNS[place].split())
    assert wanted <= columns
    if not place.endswith(READ_ONLY):
        assert wanted == columns


def test_optunas_database_storage_is_behind_a_cache_of_that_attribute() -> None:
    import optuna

    study = optuna.create_study(storage="sqlite://")
    assert isinstance(study._storage._backend, optuna.storages.RDBStorage)  # type: ignore[attr-defined]


# --- no other private name is used ---

TREES = {path.relative_to(ROOT / "sweep"): ast.parse(path.read_text()) for path in (ROOT / "sweep").rglob("*.py")}


def is_private(name: str) -> bool:
    """Return whether a name, or a part of a dotted one, begins with one underscore."""
    return any(re.fullmatch(r"_[A-Za-z]\w*", part) for part in name.split("."))


def defined(tree: ast.AST) -> set[str]:
    """Return the names that a file defines: functions, classes, variables, and attributes of its own objects."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
            names.add(node.attr)
    return names


def _is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def used(tree: ast.AST, own: set[str], all_own: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each private or undocumented name of another library.

    Args:
        own: names that the file defines.
        all_own: names that any file of sweep defines: attributes of `self` may come from a base class.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("sweep"):
            module = node.module or ""
            for name in (alias.name for alias in node.names):
                if is_private(f"{module}.{name}") or UNDOCUMENTED.fullmatch(module):
                    yield node.lineno, name
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            ours = node.attr in (all_own if _is_own(node.value) else own)
            if node.attr not in STANDARD and ((node.attr in LISTED and not _is_own(node.value)) or not ours):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ClassDef) and node.bases:  # it may override a method
            methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
            yield from ((method.lineno, method.name) for method in methods if method.name in LISTED)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("getattr", "setattr", "hasattr", "import_module"):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                yield from ((node.lineno, text.rpartition(".")[2]) for text in texts if is_private(text))


def uses() -> list[tuple[Path, int, str]]:
    own = {path: defined(tree) for path, tree in TREES.items()}
    every = set().union(*own.values())
    return [(path, line, name) for path, tree in TREES.items() for line, name in used(tree, own[path], every)]


def test_no_other_private_name_of_a_library_is_used() -> None:
    others = [
        f"sweep/{path}:{line}: {name}"
        for path, line, name in uses()
        if name not in LISTED or path.parts[0] not in LISTED[name].where.split()
    ]
    assert not others, "use a documented name, or add these to USES:\n" + "\n".join(others)


def test_each_listed_name_is_used() -> None:
    assert LISTED.keys() == {name for _, _, name in uses()}


def test_a_method_of_a_library_is_overridden_by_a_listed_name_alone() -> None:
    from sweep.proposals import samplers

    classes = [cls for cls in vars(samplers).values() if inspect.isclass(cls) and cls.__module__ == samplers.__name__]
    overridden = {
        name
        for cls in classes
        for name in vars(cls)
        if is_private(name) and any(hasattr(b, name) for b in cls.__bases__)
    }
    assert overridden - {"_abc_impl"} <= LISTED.keys()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("study._storage", ["_storage"]),
        ("import optuna\noptuna.trial._frozen.x", ["_frozen"]),
        ("import torch._dynamo", ["torch._dynamo"]),
        ("from torch._C import x as y", ["x"]),
        ("from mlflow.utils.uri import anything", ["anything"]),
        ("getattr(study, '_new')", ["_new"]),
        ("class A:\n    def __init__(self): self._mine = other._theirs", ["_theirs"]),
        ("class A(B):\n    def f(self): return self._inherited", ["_inherited"]),
        ("import os\nos._exit(1)", []),
        ("def f(a): return a._replace(x=1)", []),
        ("class A:\n    def _g(self): ...\n    def f(self): self._g()", []),
    ],
)
def test_a_private_name_is_found(source: str, names: list[str]) -> None:
    tree = ast.parse(source)
    own = defined(tree)
    assert [name for _, name in used(tree, own, own)] == names
