"""Imports what a training process needs. Only the server that training processes are forked from imports this."""

import atexit
import gc
import os

import sweep.training.trainer  # noqa: F401

gc.freeze()  # no garbage is looked for among modules: that would copy their pages after a fork
atexit.register(os._exit, 0)  # the coordinator waits for this process to end
