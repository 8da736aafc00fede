"""Makes moment data while being killed: `python -m tests.moments.drill_job PATH KILLS`.

Each attempt is a fork of a process that has imported what it may (a fork must not have run JAX, and
importing nnef_dists runs it). It kills itself, at a random time after it began to create the store
(the first attempts) or to write the first chunk.
"""

import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import equinox  # noqa: F401
import jax  # noqa: F401
import zarr  # noqa: F401

N = 640


def attempt(path, creating, seconds):
    """Makes the data, unless it is killed before."""
    from nnef_dists.generation import _generate
    from nnef_dists.storage import Store
    from tests.moments.stores import generate, random_etas

    if seconds is not None:
        owner, name = (_generate, "create_store") if creating else (Store, "write")
        kill_after_first_call(owner, name, seconds)
    generate(path, random_etas(N), chunk=8)


def kill_after_first_call(owner, name, seconds):
    """Arranges for SIGKILL some time after a function is first called."""
    call = getattr(owner, name)
    began = threading.Event()

    def kill():
        began.wait()
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def begin(*args, **kwargs):
        began.set()
        return call(*args, **kwargs)

    setattr(owner, name, begin)
    threading.Thread(target=kill, daemon=True).start()


def in_a_fork(*arguments):
    """Returns the exit code of an attempt."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            attempt(*arguments)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    path, kills = sys.argv[1], int(sys.argv[2])
    rng = random.Random(20)
    for number in range(kills):
        creating = number < kills // 4
        if creating and Path(path).exists():
            shutil.rmtree(path)
        code = in_a_fork(path, creating, rng.uniform(0, 0.03 if creating else 0.06))
        folder = Path(path)
        done = len(list(folder.glob("status/c/*")))
        left = [*folder.parent.glob(".*.creating"), *folder.rglob("*.partial")]
        print(f"exit code {code}, {done} chunks done, {len(left)} left over", flush=True)
    for last in (path, f"{path}_whole"):
        assert in_a_fork(last, False, None) == 0, last
