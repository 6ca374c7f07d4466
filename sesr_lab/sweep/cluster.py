"""Trials on Ray: one long-lived actor for each slot, on this machine or on a cluster. All that touches Ray is here.

A streaming method of the actor runs the trial; another one sets its stop flag. Ray retries nothing: what is lost is
the driver's to begin again. Workers are given settings and weights, send events back, and write nowhere.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sesr_lab.errors import ConfigError, SesrError, StoreError
from sesr_lab.sweep.executor import Broken, Executor, Happening, Job
from sesr_lab.sweep.worker import Worker
from sesr_lab.trials import trial

if TYPE_CHECKING:
    from sesr_lab.study.spec import StudySpec
    from sesr_lab.trials.lab import Lab

POLL_S = 0.5
START_PATIENCE_S = 120.0
"""How long workers are waited for where none runs; a cluster may have lost a machine that comes back."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Of a Ray that is started here: checkpoints pass through it, a few at a time."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
}


@dataclass(frozen=True)
class Resources:
    """What each trial gets; fractions of a GPU are shared by several trials."""

    cpus: float = 1.0
    gpus: float = 0.0


def workers_of(spec: StudySpec, address: str | None) -> Callable[[Lab], Executor] | None:
    """What starts the workers that a study asks for; None where it is trained in this process.

    Raises:
        ConfigError: Ray is not installed, `address` is none, or the study's trials take turns in this process.
    """
    if spec.workers is None and address is None:
        return None
    if spec.trials_per_device is not None:
        raise ConfigError("--trials-per-device: is for trials in this process; leave --workers and --address out")
    _ray()
    if address is not None:
        _check_address(address)
    resources = Resources(spec.cpus, spec.gpus)

    def start(lab: Lab) -> Workers:
        if lab.where.device.type == "cuda" and not spec.gpus:
            lab.view.note("warning: workers train on the CPU; --gpus 1 gives a GPU to each, --gpus 0.25 a part of one")
        return Workers(spec.workers, lab.where, resources, address=address, note=lab.view.note)

    return start


def room_for(spec: StudySpec, address: str | None) -> int | None:
    """How many networks of a study are trained at a time on Ray, here or at `address`; None where none is asked for.

    Raises:
        ConfigError: Ray is not installed, `address` is none, or there is no room for what the study asks for.
    """
    if workers_of(spec, address) is None:
        return None
    ray = _ray()
    _connect(ray, address)
    try:
        return _check_resources(ray, spec.workers, Resources(spec.cpus, spec.gpus))
    finally:
        ray.shutdown()


class Workers:
    """An executor on Ray."""

    is_here = False

    def __init__(
        self,
        count: int | None,
        where: trial.Place,
        resources: Resources,
        *,
        address: str | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Starts Ray here, or joins the cluster at `address`, and starts `count` workers, or as many as fit.

        Raises:
            ConfigError: Ray is not installed, the address is none, or the cluster cannot hold the workers.
        """
        self._ray = _ray()
        self._owns = address is None
        self._note, self._where, self._resources = note, where, resources
        _connect(self._ray, address)
        count = _check_resources(self._ray, count, resources)
        self._data: dict[tuple[str, int], Any] = {}
        self._slots = [_Slot(self._start()) for _ in range(count)]
        self._idle_since: float | None = None
        """Since when no worker is there; None until workers are looked for."""

    def free(self) -> int:
        return sum(slot.is_idle for slot in self._slots)

    def submit(self, job: Job) -> str:
        slot = next(slot for slot in self._slots if slot.is_idle)
        slot.key, slot.cancelled = job.key, False
        slot.events = slot.actor.run.remote(job, self._shipped(job))
        return slot.name

    def poll(self) -> Iterator[Happening]:
        """As `Executor.poll`; of each worker one event at a time, so that none is lost with its worker."""
        waiting = {slot.ready: slot for slot in self._slots if slot.ready is not None}
        running = {slot.events: slot for slot in self._slots if slot.events is not None}
        if not waiting and not running:
            return
        watched = [*waiting, *running]
        ready, _ = self._ray.wait(watched, num_returns=len(watched), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(watched, timeout=POLL_S)
        for what in ready:
            if what in waiting:
                self._greet(waiting[what])
            elif (happened := self._hear(running[what])) is not None:
                yield happened
        self._check_alive()

    def stop(self, key: str) -> None:
        self._tell(key, "stop")

    def cancel(self, key: str) -> None:
        for slot in self._slots:
            if slot.key == key:
                slot.cancelled = True
        self._tell(key, "cancel")

    def close(self) -> None:
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._slots = []
        self._ray.shutdown()  # of a cluster it takes leave, so that whoever comes next can join it

    def _start(self) -> Any:
        """A new worker."""
        options = {"num_cpus": self._resources.cpus, "num_gpus": self._resources.gpus, "max_restarts": 0}
        place = self._where
        device = "cuda" if self._resources.gpus else "cpu"
        threads = max(1, int(self._resources.cpus))
        return self._ray.remote(Worker).options(max_concurrency=2, **options).remote(device, place.engine, threads)

    def _tell(self, key: str, what: str) -> None:
        for slot in self._slots:
            if slot.key == key:
                getattr(slot.actor, what).remote(key)

    def _greet(self, slot: _Slot) -> None:
        """A worker is there, or could not be started."""
        try:
            slot.name = str(self._ray.get(slot.ready))
            slot.ready = None
            self._idle_since = time.monotonic()
        except self._ray.exceptions.RayError as error:
            self._note(f"warning: a worker could not be started: {_line(error)}")
            slot.renew(self._start())

    def _hear(self, slot: _Slot) -> Happening | None:
        """The next thing that a worker says; None where it says nothing that is wanted."""
        key, cancelled = slot.key, slot.cancelled
        event = self._next(slot)
        if isinstance(event, trial.Finished | Broken) or event is None:
            slot.key, slot.events = "", None
        if isinstance(event, Broken) and not isinstance(event.error, SesrError):
            self._ray.kill(slot.actor)  # what broke may have left it unusable, as a GPU after a failed assertion
            slot.renew(self._start())
        if cancelled:
            return None
        return key, event if event is not None else Broken(RuntimeError("a trial ended without saying how"))

    def _next(self, slot: _Slot) -> trial.Event | Broken | None:
        """The next event of a worker's trial; None at the stream's end."""
        exceptions = self._ray.exceptions
        try:
            event: trial.Event = self._ray.get(next(slot.events))
        except StopIteration:
            return None
        except exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else RuntimeError(_line(error))
            cause.add_note(str(error))  # with the traceback, which does not travel with the cause
            return Broken(cause)
        except exceptions.RayError as error:  # the worker died, or its machine
            return Broken(RuntimeError(_line(error)), lost=True)
        if isinstance(event, trial.Finished):
            for _ in slot.events:  # the stream's end, so that the worker is free
                pass
        return event

    def _check_alive(self) -> None:
        """Gives up where every worker has been missing for long: the cluster has shrunk, or never had room."""
        if self._idle_since is None or any(slot.ready is None for slot in self._slots):
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > START_PATIENCE_S:
            raise StoreError(f"Ray: no worker could be started in {START_PATIENCE_S:.0f} s; see `ray status`")

    def _shipped(self, job: Job) -> Any:
        """The trial's pictures where workers may be on machines that do not have them: once for a machine, by Ray."""
        if self._owns:
            return None
        known = (job.config.data, job.config.scale)
        if known not in self._data:
            data = trial.load_data(*known)
            self._data[known] = self._ray.put(replace(data, train=list(data.train), valid=list(data.valid)))
        return self._data[known]


@dataclass
class _Slot:
    """One worker, and what it is at."""

    actor: Any
    name: str = ""
    key: str = ""
    events: Any = None
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.ready: Any = self.actor.name.remote()

    @property
    def is_idle(self) -> bool:
        return self.ready is None and self.events is None

    def renew(self, actor: Any) -> None:
        """Puts another worker in the place of one that is gone."""
        self.actor, self.key, self.events, self.cancelled = actor, "", None, False
        self.ready = actor.name.remote()


def _check_address(address: str) -> None:
    """Raises ConfigError for what is no address of a cluster: through `ray://` events would not stream."""
    if address == "auto" or re.fullmatch(r"\[?[\w.:-]+\]?:\d{1,5}", address):
        return
    raise ConfigError(f"--address: {address!r}: run this command on a machine of the cluster, with auto or HOST:PORT")


def _check_answers(address: str) -> None:
    """Raises ConfigError where nothing listens: Ray would try again for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(f"--address: {address!r}: {error}; is Ray running there? (ray start --head)") from None


def _ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError("--workers: Ray is not installed; pip install 'sesr-lab[ray]'") from None
    return ray


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray puts an end to the process in the place of whatever SIGTERM does; it is to stop the study at a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@_keeping_sigterm()
def _connect(ray: Any, address: str | None) -> None:
    """Joins the cluster, or starts Ray on this machine for as long as this process lives."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    # It prints paragraphs about lost workers to standard output, which is for results: the driver says it in a line.
    ray._private.worker._worker_logs_enabled = False
    if address is None:
        ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **quiet)
        return
    if address != "auto":
        _check_answers(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--address: {address!r}: {_line(error)}; is Ray running there? (ray start --head)") from None


def _check_resources(ray: Any, count: int | None, resources: Resources) -> int:
    """How many workers there will be; an impossible request is an error: Ray would wait for ever.

    Raises:
        ConfigError: the cluster does not have what the workers need.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {name: each for name, each in (("CPU", resources.cpus), ("GPU", resources.gpus)) if each > 0}
    for name, each in needs.items():
        most = max((machine.get(name, 0.0) for machine in machines), default=0.0)
        if each > most:
            ray.shutdown()
            raise ConfigError(f"a network needs {each:g} {name}s, the largest machine has {most:g}; use a smaller part")
    fit = sum(int(min(machine.get(name, 0.0) / each + 1e-6 for name, each in needs.items())) for machine in machines)
    if count is not None and count > fit:
        ray.shutdown()
        part = " and ".join(f"{each:g} {name}s" for name, each in needs.items())
        raise ConfigError(
            f"--workers {count}: {part} for each network leave room for {fit} here; use fewer, or a smaller part"
        )
    return count or fit


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
