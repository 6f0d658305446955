"""Compile the fused update in a separate process, while the trainer trains without compiled updates.

The result is stored in a cache on disk, from which the trainer loads it. Compiling takes 10 to 20 s; loading from the
cache takes 3 s, most of which is tracing.
"""

import hashlib
import inspect
import os
import platform
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sweep import forking
from sweep.data import Dataset, Split
from sweep.data.batch import mapped
from sweep.messages import Facts, Work
from sweep.output import protect
from sweep.tracebacks import summary
from sweep.training.device import CPU
from sweep.training.fused import FusedEngine
from sweep.training.model import silenced


def keep_compiled() -> None:
    """Make torch store compiled code in the user's cache directory, unless TORCHINDUCTOR_CACHE_DIR is set.

    By default torch uses a temporary directory, which is lost when the machine restarts.
    """
    configure_compiler()
    with suppress(OSError, RuntimeError):  # there is no home directory, or it is read-only
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "sweep" / f"torch-{_machine()}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def configure_compiler() -> None:
    """Set the environment variables that torch reads when its compiler is imported."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # a few kernels do not need a pool of processes
    if _widest_vectors():
        os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")


def _widest_vectors() -> bool:
    """Return whether torch's own kernels use the widest vector instructions of an x86 processor.

    If so, compiled code can use them, too. Otherwise torch compiles a test program for each kind of vector, which takes
    8 s the first time and 1 s in every later process. Every C++ compiler that can compile the headers of torch supports
    these instructions.
    """
    with suppress(OSError):
        widest = "AVX512" if "avx512" in Path("/proc/cpuinfo").read_text() else "AVX2"
        return torch.backends.cpu.get_cpu_capability() == widest
    return False


def _machine() -> str:
    """Return a digest of the processor that code is compiled for, because machines may share a home directory."""
    parts = [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        parts += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def is_compiled(engine: FusedEngine) -> bool:
    """Return whether the update of this engine, or of an equal one, is in this machine's cache."""
    marker = _marker(engine)
    return marker is not None and marker.exists()


def _marker(engine: FusedEngine) -> Path | None:
    """Return the file whose presence says that the update is in the cache; None if no cache directory is set.

    Its name is a digest of what the update depends on, as far as that is known without tracing. If model code has
    changed in a file that defines none of the modules, the file exists although torch has to compile again.
    """
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    model, stack = engine.example.model, engine.stack
    objective = stack.shape.objective
    sources = {_source(type(module)) for module in (*model.modules(), objective)} | set(map(_source, objective.code))
    machine = torch.get_num_threads(), torch.__version__, os.environ.get("TORCHINDUCTOR_VEC_ISA_OK")
    rule = stack.shape.rule
    shape = {**vars(stack.shape), "rule": (type(rule).__qualname__, vars(rule))}
    parts = [machine, sorted(sources), repr(model), shape, stack.slots, engine.structure, str(engine.dtype)]
    parts.append(engine.data.input_shape)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    return None if folder is None else Path(folder) / f"sweep-{digest}"


def _source(code: Any) -> str:
    """Return a digest of the file that defines a class, a function or an object's class; its name without a file."""
    kind = code if inspect.isclass(code) or inspect.isfunction(code) else type(code)
    try:
        file = inspect.getsourcefile(kind)
        assert file is not None
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (TypeError, OSError, AssertionError):  # defined in a notebook: the target contains a digest of the code
        return str(kind.__qualname__)


def compile_ahead(pipe: Connection, work: Work, slots: int, threads: int, facts: Facts) -> None:
    """Compile the update of a fused engine on the CPU. This is the main function of the process.

    Send None when the update is in the cache, or one line that says why it cannot be compiled.

    Args:
        work: the trials of the engine.
        slots, threads: the engine's numbers of slots and threads.
        facts: shapes and types of the data. The process compiles for them without loading the data.
    """
    protect()
    forking.set_up_process()
    keep_compiled()
    threading.Thread(target=_end_with_coordinator, args=(pipe,), daemon=True).start()
    torch.set_num_threads(threads)
    first = work.like[0]
    train = replace(first.train, steps=max(first.train.steps, 8))
    try:
        with silenced():
            engine = FusedEngine(_of_shape(facts, train.batch_size), CPU, train.precision, slots, work.like, True)
            engine.rate(replace(first, train=train), 1)
            marker = _marker(engine)
            if marker is not None:
                marker.touch()
    except Exception as error:  # compilers raise many types
        _send(pipe, summary(error))
    else:
        _send(pipe, None)


def _end_with_coordinator(pipe: Connection) -> None:
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


def _send(pipe: Connection, text: str | None) -> None:
    with suppress(OSError):  # the coordinator has ended
        pipe.send(text)


def _of_shape(facts: Facts, batch_size: int) -> Dataset:
    """Return a data set of zeros with the shapes of another, and with equally many examples in the last batch."""
    n = min(facts.n_train, 2 * batch_size + facts.n_train % batch_size)
    split = Split(mapped(lambda none: torch.zeros(n, *none.shape[1:]).to(torch.from_numpy(none).dtype), facts.example))
    return Dataset(split, split, split, facts.n_outputs, facts.classification, facts.digest)
