"""Trains runs as tasks of Ray: on this machine, or on all machines of a cluster.

A task is one run in a process of its own, as with `processes`. The machines must share a file system: a task whose
worker or machine dies is started again, perhaps elsewhere, and resumes from the checkpoint in the run's folder.
"""

import contextlib
import os
import signal
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
from .work import check_workers, default_workers, environment_of_children, thread_variables, train_and_report

if TYPE_CHECKING:
    from ray.util.queue import Queue

#: How often a run is started again after its worker has died.
RETRIES = 5

#: The seconds between two looks at the events of the runs, and the seconds in which cancelled runs must end.
_LOOK, _END = 0.2, 10.0

#: Nothing large is passed through Ray, so its smallest store is enough.
_STORE_BYTES = 80 * 2**20

#: Ray would send usage statistics, and report a dead worker on the standard output, which is for JSON.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}


def check_ray(address: str | None) -> None:
    """Raises `ValueError` if Ray is not installed, or nothing answers at the address."""
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
    """Returns the address of "auto": RAY_ADDRESS, this machine's cluster, or the last one it joined.

    Raises `OSError`.
    """
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
    """Trains the configurations into `out` as `train_side_by_side` does, as tasks of Ray.

    `address` is that of a cluster ("auto" finds the one of this machine), which by default trains as many runs at a
    time as it has room for. None starts Ray on this machine until the runs have ended, unless this process has started
    it already. The current folder, `out` and `data_dir` must exist under the same names on every machine.

    Closing the iterator cancels the tasks; what they have saved stays, and the same call resumes it. Raises `RunError`
    if the disk is full or cannot be written to, which stops the other runs too, since they share it. Raises
    `ValueError` if there is no such cluster, if none of its machines can train a run, or if Ray itself fails.
    """
    ray = _ray()
    check_workers(workers)
    if address is None:
        workers = workers or default_workers(threads)
    waiting = list(enumerate(configs))
    running: dict[Any, int] = {}
    with _connection(address, (workers or 1) * threads), _queue() as news:
        task = _remote_task(threads, device)
        # Ray chooses the GPU, and shows the task only that one.
        common = (out.absolute(), data_dir and data_dir.absolute(), threads, device.partition(":")[0], Path.cwd())
        try:
            while waiting or running:
                while waiting and (workers is None or len(running) < workers):
                    index, config = waiting.pop(0)
                    running[task.remote(news, index, config, *common)] = index
                time.sleep(_LOOK)
                ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
                yield from _received(news)  # after the wait, when all events of an ended run have arrived
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
    """Imports Ray, which is an extra and takes a second, and so is not imported above."""
    os.environ |= _QUIET  # Ray reads this when it is imported
    import ray

    return ray


def _remote_task(threads: int, device: str) -> Any:
    """Returns `_task` for Ray. Raises `ValueError` if it fits on no machine, since it would wait for ever."""
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
    report = partial(_send, news)
    return train_and_report(index, config, out, report, data_dir=data_dir, threads=threads, device=device)


@contextmanager
def _queue() -> Iterator["Queue"]:
    """Opens the queue for the events of the runs.

    It is on this machine, so that it does not die with another one, and takes no core from the runs.
    """
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(_ray().get_runtime_context().get_node_id(), soft=False)
    news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        yield news
    finally:
        news.shutdown(force=True)


def _send(news: "Queue", event: Event) -> None:
    news.put(asdict(event))  # plain values: for an Event, the queue's process would import PyTorch


def _received(news: "Queue") -> Iterator[Event]:
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
    return Event(index, "failed", message=f"{reason}; the same command resumes it")


def _last_line(error: Exception) -> str:
    """Returns the last line of the error, since Ray's message comes after the stack of the other process."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


@contextmanager
def _connection(address: str | None, cores: int) -> Iterator[None]:
    """Starts Ray for the block and stops it afterwards, unless this process has started it already."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    # "local" and not None, which would obey RAY_ADDRESS.
    place = {"num_cpus": cores, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        # without_interrupts also restores the handler of SIGTERM, which Ray replaces
        with environment_of_children(1), without_interrupts(), contextlib.chdir(os.sep):
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level="error",
                **(place if address is None else {}),
            )
    except ConnectionError as error:  # something answered before, so the cluster is there
        raise InputError(
            f"address {address}: the Ray cluster there does not let this process in ({error}); where it asks for a "
            f"token, set RAY_AUTH_MODE=token"
        ) from error
    except SystemExit as stop:  # Ray's own handler of SIGTERM, while Ray is starting
        ray.shutdown()
        if stop.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)  # for the handler that was there before
        raise
    except Exception as error:  # of any class, and of the class Exception itself if Ray's processes take too long
        ray.shutdown()
        raise InputError(f"Ray did not start: {_cause(error)}") from error
    try:
        yield
    except ray.exceptions.RayError as error:
        raise InputError(f"Ray has failed ({_last_line(error)}); the same command resumes the runs") from error
    finally:
        ray.shutdown()


def _cause(error: Exception) -> str:
    """Says in one line why Ray did not start, and what to do."""
    text = " ".join(str(error).split())
    if "AF_UNIX" in text:
        return "the name of the folder for temporary files is too long for its sockets; set RAY_TMPDIR to a short one"
    cause = "its processes did not answer in time" if "timed out" in text else text or type(error).__name__
    return f"{cause}; try again when the machine is less busy, or choose the engine processes"


def _no_cluster(address: str | None, error: Exception) -> str:
    return (
        f"address {address}: no Ray cluster answers there ({error}); give HOST:PORT of one that `ray start --head` "
        f"started, or auto on one of its machines"
    )
