"""Load data sets, split and standardize them, and convert them to tensors on a device."""

from sweep.data.dataset import Dataset, Examples, dataset_of, load
from sweep.data.splits import LoadedSplit, Split, StoredSplit
from sweep.data.windows import DrawnWindows

__all__ = ["Dataset", "DrawnWindows", "Examples", "LoadedSplit", "Split", "StoredSplit", "dataset_of", "load"]
