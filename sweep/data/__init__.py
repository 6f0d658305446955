"""A data set becomes tensors, on the device where they fit."""

from sweep.data.dataset import Dataset, Split, load

__all__ = ["Dataset", "Split", "load"]
