"""Runs as tasks of Ray: on this machine, or on all machines of a cluster.

A task is one run in a process of its own, as with `processes`. What the machines share is a file system: a task whose
worker or machine dies is started again, perhaps elsewhere, and goes on from the checkpoint in the run's folder.
"""

import os
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._errors import InputError, RunError
from ...training import RunConfig
from .events import Event
from .interrupts import without_interrupts
from .work import check_workers, default_workers, thread_variables, train_and_tell

if TYPE_CHECKING:
    from ray.util.queue import Queue

#: How often a run is started again whose worker died.
RETRIES = 5

#: Seconds between two looks at what the runs tell, and that cancelled runs have to end.
_LOOK, _END = 0.2, 10.0

#: Nothing of size is passed through Ray, so its smallest store will do.
_STORE_BYTES = 80 * 2**20

#: Ray would send usage statistics, and print to the standard output, where JSON goes, that a worker died.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}


def check_ray(address: str | None) -> None:
    """`ValueError` where Ray is not installed, or nothing answers at the address."""
    if find_spec("ray") is None:
        raise InputError("engine ray needs Ray, which is not installed: pip install 'neurocollapse[ray]'")
    if address is None:
        return
    try:  # Ray itself would try for two minutes
        host, _, port = (_found_by_ray() if address == "auto" else address).rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(_no_cluster(address, error)) from error


def _found_by_ray() -> str:
    """What "auto" stands for: RAY_ADDRESS, a cluster of this machine, or the last one it was part of. `OSError`."""
    _ray()
    from ray._private.services import canonicalize_bootstrap_address_or_die

    return str(canonicalize_bootstrap_address_or_die("auto"))


def train_on_ray(
    configs: Sequence[RunConfig],
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    address: str | None = None,
) -> Generator[Event, None, None]:
    """Train the configurations into `out` as `train_side_by_side` does, as tasks of Ray.

    `address` is that of a cluster ("auto" finds the one of this machine), where by default all runs are under way that
    there is room for; None starts Ray on this machine for the while, unless this process has begun it already. The
    current folder, `out` and `data_dir` must be there under the same names on every machine.

    Closing the iterator cancels the tasks; what they have saved stays, and the same call goes on from there. Raises
    `RunError` where the disk is full or cannot be written to, which stops the others too: they share it. And
    `ValueError` where there is no such cluster, no machine in it that could train a run, or Ray itself fails.
    """
    ray = _ray()
    check_workers(workers)
    if address is None:
        workers = workers or default_workers(threads)
    waiting = list(enumerate(configs))
    running: dict[Any, int] = {}
    with _connection(address, (workers or 1) * threads), _queue() as news:
        task = _remote_task(threads, device)
        # Ray chooses the GPU, and shows the task no other.
        common = (out.absolute(), data_dir and data_dir.absolute(), threads, device.partition(":")[0], Path.cwd())
        try:
            while waiting or running:
                while waiting and (workers is None or len(running) < workers):
                    index, config = waiting.pop(0)
                    running[task.remote(news, index, config, *common)] = index
                time.sleep(_LOOK)  # not in `wait`, which makes a bare KeyboardInterrupt of SIGTERM's kind of it
                ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
                yield from _told(news)  # after the wait: all that an ended run had to tell is there
                for reference in ended:
                    event = _end(running.pop(reference), reference)
                    if event.kind == "stuck":
                        raise RunError(event.message)
                    yield event
        finally:
            with without_interrupts():  # a second Ctrl-C must not leave half of them running
                for reference in running:
                    ray.cancel(reference, force=True)
                if running:
                    ray.wait(list(running), num_returns=len(running), timeout=_END)


def _ray() -> Any:
    """The library. To import it takes a second, and it is an extra, so it is not done above."""
    os.environ |= _QUIET  # read when it is imported
    import ray

    return ray


def _remote_task(threads: int, device: str) -> Any:
    """`_task` for Ray. `ValueError` where it fits on no machine: it would wait for ever."""
    ray = _ray()
    needed = {"CPU": threads, "GPU": 1} if device.startswith("cuda") else {"CPU": threads}
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    if not any(all(machine.get(name, 0) >= count for name, count in needed.items()) for machine in machines):
        wanted = " and ".join(f"{count} {name}(s)" for name, count in needed.items())
        raise InputError(f"a run needs {wanted}, and no machine of the Ray cluster has as many")
    remote = ray.remote(
        num_cpus=threads,
        num_gpus=needed.get("GPU", 0),
        max_retries=RETRIES,
        max_calls=1,  # a process serves one run, so that none can leave anything behind for the next
        runtime_env={"env_vars": thread_variables(threads)},
    )
    return remote(_task)


def _task(
    news: "Queue",
    index: int,
    config: RunConfig,
    out: Path,
    data_dir: Path | None,
    threads: int,
    device: str,
    folder: Path,
) -> Event:
    os.chdir(folder)  # the user's own module and data are found from there
    tell = partial(_tell, news)
    return train_and_tell(index, config, out, tell, data_dir=data_dir, threads=threads, device=device)


@contextmanager
def _queue() -> Iterator["Queue"]:
    """What the runs tell. On this machine, for it must not die with another; it takes no core from them."""
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(_ray().get_runtime_context().get_node_id(), soft=False)
    news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        yield news
    finally:
        news.shutdown(force=True)


def _tell(news: "Queue", event: Event) -> None:
    news.put(asdict(event))  # plain values: for an Event, the queue's process would import PyTorch


def _told(news: "Queue") -> Iterator[Event]:
    for values in news.get_nowait_batch(news.qsize()):
        yield Event(**values)


def _end(index: int, reference: Any) -> Event:
    ray = _ray()
    try:
        event: Event = ray.get(reference)
    except ray.exceptions.WorkerCrashedError:
        reason = f"its worker died {RETRIES + 1} times (out of memory?)"
    except ray.exceptions.RayError as error:
        reason = _last_line(error)
    else:
        return event
    return Event(index, "failed", message=f"{reason}; the same command goes on from there")


def _last_line(error: Exception) -> str:
    """What Ray has to say comes after the stack of the other process."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


@contextmanager
def _connection(address: str | None, cores: int) -> Iterator[None]:
    """Ray, begun and ended here unless this process has begun it already."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    # "local" and not None, which would obey RAY_ADDRESS.
    place = {"num_cpus": cores, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        with without_interrupts():  # which also puts back the handler of SIGTERM that Ray replaces
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level="error",
                **(place if address is None else {}),
            )
    except ConnectionError as error:  # of what answered when it was looked for
        raise InputError(
            f"address {address}: the Ray cluster there does not let this process in ({error}); where it asks for a "
            f"token, set RAY_AUTH_MODE=token"
        ) from error
    try:
        yield
    except ray.exceptions.RayError as error:
        raise InputError(f"Ray has failed ({_last_line(error)}); the same command goes on from there") from error
    finally:
        ray.shutdown()


def _no_cluster(address: str | None, error: Exception) -> str:
    return (
        f"address {address}: no Ray cluster answers there ({error}); give HOST:PORT of one that `ray start --head` "
        f"began, or auto on one of its machines"
    )
