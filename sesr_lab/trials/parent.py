"""The x2 parent of a x4 network: found in the registry, or trained once, by one process, and published whole."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

from sesr_lab.data.dataset import Data
from sesr_lab.errors import ModelError, ParentError
from sesr_lab.registry.catalog import best, champion, versions
from sesr_lab.registry.lookup import Named, find, of_version
from sesr_lab.registry.publish import ClaimLostError
from sesr_lab.registry.version import Version
from sesr_lab.study.config import Architecture, TrialConfig
from sesr_lab.trials import checkpoint
from sesr_lab.trials.lab import Interrupted, Lab, Task, load_data, patiently
from sesr_lab.trials.lifecycle import carry_out, resumable_run
from sesr_lab.trials.locks import Lock
from sesr_lab.trials.outcome import Outcome

NOTE_EVERY_S = 30.0


@dataclass(frozen=True)
class Missing:
    """A x2 parent that nobody has published yet."""

    lock: str
    """Under which it is trained, by one process."""
    name: str
    task: Task
    """The training that makes it."""


class Parents:
    """Finds or makes parents for one command; a parent that failed is not tried again by it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.failed: dict[tuple[str, str], str] = {}
        """Why, by the lock and by what the training was: another rate may train the same network."""

    def ensure(self, task: Task, earlier: str | None = None) -> Named | None:
        """The x2 network that the task's x4 network starts from; None for x2 tasks and `parent = "none"`.

        Args:
            earlier: the key of the run that is gone on with; what it started from is what its rest starts from.

        Raises:
            ParentError: there is none that fits, and none may or could be trained.
            Interrupted: the user asked to stop while it was trained or waited for.
        """
        found = self.look(task, earlier)
        return self._once(found, task) if isinstance(found, Missing) else found

    def look(self, task: Task, earlier: str | None = None) -> Named | Missing | None:
        """The same, but for a parent that is missing, which is not trained here.

        Raises:
            ParentError: there is none that fits, and none may or could be trained.
        """
        config = task.config
        if config.scale == 2 or config.parent == "none":
            return None
        if earlier is not None and (parent := self._of_run(earlier)) is not None:
            return parent
        data = load_data(self.lab, config)
        if config.parent not in ("auto", "require"):
            return self._named(config, data)
        found = self._find(config, data)
        if found is None and config.parent == "require":
            raise ParentError(self._missing(config, data))
        return found or self._to_make(task, data)

    def _to_make(self, task: Task, data: Data) -> Missing:
        config = task.config
        name = _names(config, self.lab.prefix)[0]
        # With parents of either block type accepted, a collapsed and an expanded child wait for the same one.
        shared = name if config.parent_block == "same" else name.replace(f"-{config.block}-", "-")
        key = f"parent:{shared}@{data.fingerprint[:16]}"
        made = parent_config(config)
        if (key, made.fingerprint) in self.failed:
            raise ParentError(self.failed[key, made.fingerprint])
        tags = {**task.tags, "sesr.kind": "parent", "sesr.trial": ""}
        label = f"parent-{config.architecture.short_name}-x2"
        parent = replace(task, config=made, label=label, tags=tags, estimate=None)
        return Missing(key, name, parent)

    def _of_run(self, key: str) -> Named | None:
        """What a run has started from, by its tags; None if neither this machine nor the store knows the run.

        Raises:
            ParentError: it was a file, and the file has changed since.
        """
        tracker = self.lab.tracker
        tags = patiently(self.lab, partial(tracker.tags_of, key))
        if "sesr.parent.name" in tags:
            uri = f"models:/{tags['sesr.parent.name']}/{tags['sesr.parent.version']}"
            return patiently(self.lab, partial(find, tracker, uri))
        if "sesr.parent.file" not in tags:
            return None
        found = find(tracker, tags["sesr.parent.file"])
        if found.lineage.tags["sesr.parent.sha256"] != tags["sesr.parent.sha256"]:
            raise ParentError(f"{found.name}: the file has changed since run {key} started from it; use --fresh")
        return found

    def _find(self, config: TrialConfig, data: Data) -> Named | None:
        """The champion on the same pictures, of the same block type or else of the other."""
        for name in _names(config, self.lab.prefix):
            version = patiently(self.lab, partial(self._best, name, data.fingerprint))
            if version is not None:
                self._check_data(config, version, data)
                return patiently(self.lab, partial(of_version, self.lab.tracker, version))
        return None

    def _best(self, name: str, data_fingerprint: str) -> Version | None:
        """The champion, or else the best that there is below bicubic: it is what more training would give too."""
        tracker = self.lab.tracker
        return champion(tracker, name, data_fingerprint) or best(tracker, name, data_fingerprint)

    def _named(self, config: TrialConfig, data: Data) -> Named:
        """The parent that the user named.

        Raises:
            ParentError: it has another m, f, feature_size or input_residual, or is not a x2 network.
        """
        try:
            loaded = patiently(self.lab, partial(find, self.lab.tracker, config.parent, prefix=self.lab.prefix))
        except ModelError as error:
            raise ParentError(f"--parent {config.parent}: {error}") from None
        if reason := _misfit(config, loaded.architecture):
            raise ParentError(f"--parent {config.parent}: {reason}; name a x2 network of {config.architecture.name}")
        if loaded.architecture.activation != config.activation:
            self.lab.view.note(
                f"warning: the parent {loaded.name} has {loaded.architecture.activation} activations, this network "
                f"{config.activation}: it does not start as the same function"
            )
        if loaded.version is not None:
            self._check_data(config, loaded.version, data)
        return loaded

    def _check_data(self, config: TrialConfig, version: Version, data: Data) -> None:
        """Says so where a parent was trained on other pictures.

        Raises:
            ParentError: it was, and `--parent require` asks for the same.
        """
        if version.data_fingerprint == data.fingerprint:
            return
        text = (
            f"the parent {version.uri} was trained on {version.data} ({version.data_fingerprint[:8]}), "
            f"this network is trained on {data.source} ({data.fingerprint[:8]})"
        )
        if config.parent == "require":
            raise ParentError(f"{text}; name it with --parent {version.uri} if it is meant")
        self.lab.view.note(f"warning: {text}")

    def _missing(self, config: TrialConfig, data: Data) -> str:
        """What was searched, what was there instead, and how to make a parent."""
        lines = []
        for name in _names(config, self.lab.prefix):
            others = [version for version in versions(self.lab.tracker) if version.name == name]
            of = ", ".join(f"version {v.version} on {v.data} ({v.data_fingerprint[:8]})" for v in others[:5])
            lines.append(f"{name} ({of or '0 versions'})")
        return (
            f"no x2 parent for {config.architecture.name} on {data.source} ({data.fingerprint[:8]}): "
            f"searched {'; '.join(lines)}; train it: {_command(parent_config(config), self.lab.prefix)}"
        )

    def _once(self, missing: Missing, task: Task) -> Named | None:
        """The parent, trained here or by whoever else is at it already."""
        while True:
            lock = patiently(self.lab, partial(self.lab.locks.wait, missing.lock, _Waiting(self.lab, missing.name)))
            with lock:
                found = self.look(task)  # whoever had the lock before may have published it
                if isinstance(found, Missing):
                    self._train(found, task, lock)
            found = self.look(task) if isinstance(found, Missing) else found
            if not isinstance(found, Missing):
                return found

    def _train(self, missing: Missing, task: Task, lock: Lock) -> None:
        """Trains and publishes the parent while this process alone has its lock."""
        parent = missing.task
        data = load_data(self.lab, parent.config)
        self.lab.view.note(f"{task.label}: no x2 parent on {data.source} yet; training {parent.label} first")
        earlier = resumable_run(self.lab, parent, data)
        try:
            outcome = carry_out(self.lab, parent, key=earlier, may_publish=lock.current)
        except ClaimLostError as error:  # the database was away, and another process has the lock now
            self.lab.view.note(str(error))
            return
        if outcome.result == "finished":  # whoever waits for the lock looks into the registry
            patiently(self.lab, partial(self.lab.tracker.wait_for, outcome.key, "model", stop=self.lab.stop))
            if self.lab.stop():
                raise Interrupted("stopped while a parent was being registered")
        checkpoint.remove(outcome.key)
        if outcome.result != "finished":
            raise ParentError(self.fail(missing, outcome))

    def fail(self, missing: Missing, outcome: Outcome) -> str:
        """Remembers that the parent could not be trained; the reason, in words."""
        text = f"its x2 parent {missing.task.label} failed to train: {outcome.result}: {outcome.reason}"
        self.failed[missing.lock, missing.task.config.fingerprint] = text
        return text


def parent_config(config: TrialConfig) -> TrialConfig:
    """The x2 trial that makes the parent of a x4 one: the same network, recipe, budget, data and seed."""
    return config.model_copy(update={"scale": 2, "parent": "auto"})


class _Waiting:
    """Says now and then what is waited for, and gives up when the user asks."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.said = float("-inf")

    def __call__(self, holder: str) -> None:
        if self.lab.stop():
            raise Interrupted("stopped while waiting for a parent")
        if time.monotonic() - self.said > NOTE_EVERY_S:
            self.said = time.monotonic()
            self.lab.view.note(f"waiting for the x2 parent {self.name}: {holder} is training it")


def _names(config: TrialConfig, prefix: str) -> list[str]:
    """The registered x2 models that can be the parent: the same block type, then (unless ruled out) the other."""
    same = parent_config(config).architecture
    other = same.model_copy(update={"block": "expanded" if same.block == "collapsed" else "collapsed"})
    wanted = [same] if config.parent_block == "same" else [same, other]
    return [architecture.registered_name(prefix) for architecture in wanted]


def _misfit(config: TrialConfig, found: Architecture) -> str:
    """What keeps a network from being the parent; nothing if it fits."""
    keys = ("m", "f", "feature_size", "input_residual")
    differing = [
        f"{key} is {getattr(found, key)}, not {getattr(config, key)}"
        for key in keys
        if getattr(found, key) != getattr(config, key)
    ]
    if found.scale != 2:
        differing.append(f"its scale is {found.scale}, not 2")
    return ", ".join(differing)


def _command(config: TrialConfig, prefix: str) -> str:
    """What to type to train this network."""
    network = f"--preset {config.preset}" if config.preset else f"--m {config.m} --f {config.f}"
    size = "" if config.preset else f" --feature-size {config.feature_size}"
    block = "" if config.block == "collapsed" else f" --block {config.block}"
    name = "" if prefix == "sesr" else f" --model-name {prefix}"
    return (
        f"sesr-lab train {network}{size}{block}{config.variant_flags} --scale {config.scale} --data {config.data}{name}"
    )
