"""A data set becomes tensors, on the device where they fit."""

from sweep.data.dataset import Dataset, Examples, Split, StoredSplit, dataset_of, load

__all__ = ["Dataset", "Examples", "Split", "StoredSplit", "dataset_of", "load"]
