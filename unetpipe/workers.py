"""Workers that share one stage's work: processes of this machine, of a running dask scheduler, or of SLURM's jobs."""

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

from unetpipe.clusterspecs import ClusterSpec
from unetpipe.errors import ConfigError, UnetpipeError
from unetpipe.signals import stop_if_asked

__all__ = ["Workers", "open_workers"]

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

POLL_S = 0.2
# How long a scheduler may take to answer.
ANSWER_S = 20
# How often dask may try to begin.
LOOP_TRIES = 6
# How often lost jobs are asked for again, and how long there may be no worker before that is told.
RENEW_S, MISSED_S = 30.0, 120.0
# Tasks that each worker has: one that it computes, and one that it finds when that is done.
AHEAD = 2


class Workers:
    """Workers that wait for something to do; made by `open_workers`.

    Attributes
    ----------
    count : int
        Their number, or how many there will be.
    """

    def __init__(self, client: Any, count: int, renew: Callable[[], None] = lambda: None) -> None:
        self.client, self.count, self.renew = client, count, renew
        self.renewed_at = self.seen_at = monotonic()

    def each(self, call: Callable[[T], R], items: Iterable[T], *, take: Callable[[R], None]) -> None:
        """Call a function with each of some items; what a worker that dies has not finished, others do.

        Parameters
        ----------
        call : callable
            A function of a module, which workers import.
        items : iterable
            Begun in this order; two for each worker are on their way.
        take : callable
            Called here, in one thread, with each result as it comes.

        Raises
        ------
        UnetpipeError
            What `call` has raised, as any other error too; or that the workers are lost.
        Interrupted
            If a stop was asked for.
        """
        waiting: SimpleQueue[Any] = SimpleQueue()
        running: set[Any] = set()
        order = iter(items)
        while True:
            for item in islice(order, AHEAD * self.count - len(running)):
                future = self.client.submit(call, item, pure=False)
                running.add(future)
                future.add_done_callback(waiting.put)
            if not running:
                return
            try:
                future = waiting.get(timeout=POLL_S)
            except Empty:
                stop_if_asked()
                self.look_after()
                continue
            running.discard(future)
            take(result_of(future))

    def look_after(self) -> None:
        """Ask for the jobs of workers that are lost again, and tell if there has been no worker for long."""
        now = monotonic()
        if now < self.renewed_at + RENEW_S:
            return
        self.renewed_at = now
        self.renew()
        with suppress(OSError, TimeoutError):
            if self.client.nthreads():
                self.seen_at = now
        if now > self.seen_at + MISSED_S:
            self.seen_at = now
            log.warning(
                "predict.cluster: there has been no worker for %d s; waiting. See squeue for the jobs, and their logs",
                MISSED_S,
            )


def result_of(future: Any) -> Any:
    """What a worker has made, or its error."""
    if future.status == "cancelled":
        raise UnetpipeError(
            "predict.cluster: the scheduler is gone; what is done is saved, start it and give the same command again"
        )
    try:
        return future.result()
    except installed("distributed").KilledWorker:
        raise UnetpipeError(
            "predict.cluster: several workers died of the same tiles, often for want of memory; what is done is saved, "
            "lower predict.memory_gb or give workers more"
        ) from None


@contextmanager
def open_workers(spec: ClusterSpec, *, threads: int, memory_bytes: int) -> Iterator[Workers]:
    """Start workers, or find those that run; those that were started end with the context.

    Parameters
    ----------
    spec : ClusterSpec
        Which ones.
    threads : int
        Processors to ask for, for each worker that has to be asked for.
    memory_bytes : int
        Memory of each, where it has to be asked for.

    Yields
    ------
    Workers

    Raises
    ------
    ConfigError
        If a package is missing, or no scheduler answers.
    """
    distributed = installed("distributed")
    # What dask tells of each connection; its warnings are told, in workers only its errors.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with ExitStack() as stack:
        loop = stack.enter_context(running_loop())
        cluster, count = started(spec, threads, memory_bytes, loop), spec.local or spec.slurm
        if cluster is not None:
            stack.enter_context(cluster)
        place = spec.address or spec.scheduler_file
        if spec.scheduler_file and not Path(spec.scheduler_file).is_file():
            raise ConfigError(
                f"predict.cluster.scheduler_file: expected the file of a running dask scheduler, there is no {place}; "
                "start it by `dask scheduler --scheduler-file`"
            )
        keys = {"address": spec.address or cluster, "scheduler_file": spec.scheduler_file or None}
        try:
            client = distributed.Client(**keys, timeout=ANSWER_S, set_as_default=False, loop=loop)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"predict.cluster: expected a dask scheduler at {place or 'this machine'}, none answers "
                f"({type(error).__name__}); start it by `dask scheduler`, and its workers by `dask worker`"
            ) from None
        stack.enter_context(client)
        if cluster is None:
            count = len(client.nthreads())
            if not count:
                log.warning("predict.cluster: the scheduler at %s has no workers; waiting for the first", place)
        # Jobs that end, be it by their time limit, are not replaced by dask itself.
        yield Workers(client, max(1, count), (lambda: cluster.scale(count)) if spec.slurm else (lambda: None))


@contextmanager
def running_loop() -> Iterator[Any]:
    """The event loop of dask, which gives its thread 10 s to begin: again where disk or processors are busy."""
    for _ in range(LOOP_TRIES):
        runner = installed("distributed.utils").LoopRunner()
        with suppress(AssertionError):
            runner.start()
            break
    else:
        raise UnetpipeError(
            "predict.cluster: no thread for dask began within a minute; run fewer jobs at once on this machine"
        )
    try:
        yield runner.loop
    finally:
        runner.stop()


def started(spec: ClusterSpec, threads: int, memory_bytes: int, loop: Any) -> Any:
    """A cluster of dask's that starts the workers; None where they run already."""
    # dask's own limits would stop a worker that keeps its memory for the next tile.
    if spec.local:
        keys: dict[str, Any] = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
        return installed("distributed").LocalCluster(
            n_workers=spec.local, processes=True, silence_logs=logging.ERROR, loop=loop, **keys
        )
    if spec.slurm:
        keys = {"cores": threads, "processes": 1, "memory": f"{memory_bytes} B"}
        keys |= {"worker_extra_args": ["--memory-limit", "0"], "job_extra_directives": list(spec.directives)}
        scheduler = {"dashboard_address": ":0"}
        return installed("dask_jobqueue").SLURMCluster(
            n_workers=spec.slurm, scheduler_options=scheduler, loop=loop, **keys
        )
    return None


def installed(name: str) -> Any:
    """A package of the extra `cluster`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"predict.cluster: needs the package {name}, which is not installed; pip install 'unetpipe[cluster]'"
        ) from None
