"""Searches: a space in Optuna's terms, proposals, pruning. Knows nothing of tensors. Only importer of optuna."""

from sweep.search.importance import importances
from sweep.search.lease import Lease
from sweep.search.proposer import HopelessError, OptunaProposer
from sweep.search.pruners import pruner
from sweep.search.samplers import grid_size, history_free, sampler
from sweep.search.store import check_storage, check_study, open_study

__all__ = [
    "HopelessError",
    "Lease",
    "OptunaProposer",
    "check_storage",
    "check_study",
    "grid_size",
    "history_free",
    "importances",
    "open_study",
    "pruner",
    "sampler",
]
