"""Implements the functions and result types of `import sweep`.

Each function turns its arguments into a plan, as the command line does, and passes the plan to `sweep.app`.
"""

import sys
import warnings

if "IPython" in sys.modules:
    with warnings.catch_warnings():  # Optuna and MLflow import tqdm.auto, which warns in a notebook without ipywidgets
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401
