"""Proposes and prunes trials with Optuna. The only package that imports optuna; it does not know tensors."""

from sweep.proposals.importance import importances
from sweep.proposals.lease import Lease
from sweep.proposals.proposer import OptunaProposer
from sweep.proposals.pruners import pruner
from sweep.proposals.samplers import grid_size, history_free, sampler
from sweep.proposals.store import check_storage, check_study, open_study

__all__ = [
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
