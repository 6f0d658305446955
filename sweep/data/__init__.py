"""A data set becomes tensors, on the device where they fit."""

from sweep.data.dataset import Dataset, dataset_of, load
from sweep.data.splits import Examples, LoadedSplit, Split, StoredSplit

__all__ = ["Dataset", "Examples", "LoadedSplit", "Split", "StoredSplit", "dataset_of", "load"]
