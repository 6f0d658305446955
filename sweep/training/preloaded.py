"""Imports what a training process needs. Only the server that training processes are forked from imports this."""

import atexit
import gc
import os
from importlib import import_module

gc.disable()  # imports leave hardly any garbage, and looking for it takes a fifth of their time
import_module("sweep.training.trainer")
given = set(os.environ)
import_module("sweep.training.compiling").configure_compiler()
import_module("torch._dynamo")  # torch imports it when the first optimizer is created, which takes a second
for name in os.environ.keys() - given:  # torch sets a temporary directory for what is compiled
    del os.environ[name]
gc.freeze()  # no garbage is looked for among modules: that would copy their pages after a fork
gc.enable()
atexit.register(os._exit, 0)  # the coordinator waits for this process to end
