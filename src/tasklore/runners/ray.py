"""Work on a Ray cluster: a function over items, each result as it comes.

::

    with join(n_cpus=2) as cluster:  # or join("192.168.0.7:6379"): one that runs already
        for item, result in cluster.map(function, items, at_a_time=2):
            ...

A cluster that is started here listens on the loopback interface only, asks for a token of its own, reports
to nobody, and leaves neither files nor processes behind. What Ray itself needs to know is kept in this file.
"""

import contextlib
import itertools
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from ..errors import Interrupted, InvalidSetting, MissingDependency

__all__ = ["Cluster", "join"]

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIALS = 2
"""How often an item is begun before it is given up, if its worker dies."""

OBJECTS = 256 << 20
"""Bytes of shared memory for results on their way; what is larger goes through a file."""

LONGEST_FOLDER = 40
"""Ray's sockets lie in its folder, and the path of a socket has 107 characters at most."""

PATIENCE = 10.0
"""Seconds until a cluster's address must answer."""

SILENT = {"RAY_USAGE_STATS_ENABLED": "0"}
OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: else 127.0.0.1 is not taken at its word
    "RAY_process_group_cleanup_enabled": "1",  # when a worker dies, so does what it has started
    "RAY_worker_niceness": "0",  # seconds are counted as without Ray
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # one for this process, as Ray reads it once
}


class Cluster:
    """A cluster that this process belongs to, as :func:`join` gives it.

    Parameters
    ----------
    ray : module
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    @property
    def address(self) -> str:
        """Where it can be joined."""
        return self._ray.get_runtime_context().gcs_address

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        at_a_time: int,
        name: Callable[[Item], str] = str,
        begun: Callable[[Item], None] = lambda item: None,
    ) -> Generator[tuple[Item, Result]]:
        """Yield each item with the function's result, in the order in which they are done.

        Close the generator to end what still runs. An item whose worker dies is begun once more, and costs no
        other item anything.

        Parameters
        ----------
        function : callable
            From a module that every machine of the cluster has installed. It gets one processor core.
        items : iterable
            Anything that pickle can send.
        at_a_time : int
            The most items that are worked on at once.
        name : callable
            How to call an item in a message.
        begun : callable
            Is told of an item when it is handed in.

        Raises
        ------
        Exception
            Whatever the function raises, as soon as it does.
        Interrupted
            An item brought its worker down twice; raised after all others have been yielded.
        """
        from ray.exceptions import RayError, RayTaskError

        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(_call)
        waiting = iter(items)
        running: dict[Any, tuple[Item, int]] = {}
        lost: list[str] = []

        def begin(n: int) -> None:
            for item in itertools.islice(waiting, n):
                begun(item)
                running[remote.remote(function, item)] = (item, 1)

        try:
            begin(at_a_time)
            while running:
                done, _ = ray.wait(list(running), num_returns=1)
                item, trial = running.pop(done[0])
                try:
                    result: Result = ray.get(done[0])
                except RayTaskError as fault:
                    raise fault.cause or fault from fault
                except RayError as death:
                    if trial < TRIALS:
                        running[remote.remote(function, item)] = (item, trial + 1)
                    else:
                        lost.append(f"{name(item)} ({type(death).__name__})")
                        begin(1)
                    continue
                begin(1)
                yield item, result
        finally:
            if ray.is_initialized():
                for reference in running:
                    ray.cancel(reference, force=True)
        if lost:
            raise Interrupted(
                f"{', '.join(lost)}: the worker ended {TRIALS} times, perhaps for lack of memory; everything "
                "else is done. Make room on the machines and give the same command again"
            )


@contextlib.contextmanager
def join(address: str | None = None, *, n_cpus: int = 1) -> Generator[Cluster]:
    """Belong to a Ray cluster for a while.

    Parameters
    ----------
    address : str, optional
        Of one that runs: ``HOST:PORT``, or ``"auto"`` for the one that this machine belongs to. By default
        one is started on this machine, for this process alone, and ended afterwards.
    n_cpus : int
        Processor cores that a cluster started here takes to be its own.

    Raises
    ------
    MissingDependency
        Ray is not installed.
    InvalidSetting
        No cluster answers there, none can be started here, or this process belongs to one already.
    """
    with _environment(SILENT if address else {**SILENT, **OWN}):
        ray = _imported()
        if ray.is_initialized():
            raise InvalidSetting(
                "this process belongs to a Ray cluster already; leave it first, with ray.shutdown()"
            )
        with contextlib.ExitStack() as leaving:
            if address:
                leaving.callback(ray.shutdown)
                _connect(ray, address)
            else:
                folder = leaving.enter_context(
                    tempfile.TemporaryDirectory(
                        prefix="ray-", dir=_short_folder(), ignore_cleanup_errors=True
                    )
                )
                leaving.callback(ray.shutdown)
                _start(ray, n_cpus, folder)
            yield Cluster(ray)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    """Call a function, which may be of any kind; Ray itself takes only those written in Python."""
    return function(item)


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependency("work on a Ray cluster needs Ray: pip install 'tasklore[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    from ray.exceptions import RayError

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would go on trying for ever
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        with _own_signals():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InvalidSetting(
            f"no Ray cluster can be joined at {address!r}: {_reason(error)}; start one with "
            "`ray start --head`, check its address, or leave the address out for one on this machine"
        ) from error


def _start(ray: Any, n_cpus: int, folder: str) -> None:
    if ray.util.get_node_ip_address() != "127.0.0.1":
        raise InvalidSetting(
            "Ray was imported before, set up to listen on every network interface; start it later, or set "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before that import"
        )
    try:
        with _own_signals():
            ray.init(
                address="local",  # whatever RAY_ADDRESS says
                num_cpus=n_cpus,
                include_dashboard=False,
                object_store_memory=OBJECTS,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
    except Exception as error:  # no narrower class is what Ray raises when it cannot start
        raise InvalidSetting(
            f"Ray could not be started on this machine: {_reason(error)}; give the same command again when "
            "the machine is less busy, or do without Ray"
        ) from error


def _reason(error: Exception) -> str:
    """Return the beginning of a message, which may be a page long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".")


def _short_folder() -> str:
    """Return where a folder of Ray's can lie."""
    usual = tempfile.gettempdir()
    return usual if len(usual) + len("/ray-12345678") <= LONGEST_FOLDER else "/tmp"


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
    """Set variables that Ray and its processes read, and put back what there was."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_signals() -> Generator[None]:
    """Keep what this program does at SIGTERM: Ray puts its own in place."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
