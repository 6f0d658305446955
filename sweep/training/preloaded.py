"""Import the modules of a training process. Only the fork server of training processes imports this module."""

import atexit
import gc
import os
from importlib import import_module

gc.disable()  # imports leave hardly any garbage, and collections take a fifth of their time
import_module("sweep.training.trainer")
given = set(os.environ)
import_module("sweep.training.compiling").configure_compiler()
import_module("torch._dynamo")  # torch imports it when the first optimizer is created, which takes a second
for name in os.environ.keys() - given:  # torch has set a temporary directory for compiled code
    del os.environ[name]
gc.freeze()  # collecting modules would copy their pages after a fork
gc.enable()
atexit.register(os._exit, 0)  # the coordinator waits for this process to end
