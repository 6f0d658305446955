"""Searches: a space in Optuna's terms, proposals, pruning. Knows nothing of tensors. Only importer of optuna."""

from sweep.search.importance import importances
from sweep.search.proposer import OptunaProposer
from sweep.search.pruners import pruner
from sweep.search.samplers import sampler
from sweep.search.store import check_storage, open_study

__all__ = ["OptunaProposer", "check_storage", "importances", "open_study", "pruner", "sampler"]
