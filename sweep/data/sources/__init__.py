"""The built-in data sets. Each is a function, named in conf/dataset, whose result `sweep.arrays.as_source` accepts."""

from sweep.data.sources.arrow import huggingface
from sweep.data.sources.cifar import cifar10, cifar100
from sweep.data.sources.idx import fashion_mnist, mnist
from sweep.data.sources.images import image_folder
from sweep.data.sources.npz import arrays
from sweep.data.sources.shipped import breast_cancer, digits, quadratic
from sweep.data.sources.tables import table
from sweep.data.sources.text import text, tokens

__all__ = [
    "arrays", "breast_cancer", "cifar10", "cifar100", "digits", "fashion_mnist", "huggingface", "image_folder", "mnist",
    "quadratic", "table", "text", "tokens",
]  # fmt: skip
