"""Records of a run's journal, carried out: what each kind of them is in MLflow."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from sesr_lab import faults
from sesr_lab.tracking.answers import Gone, Refused, answer_to, is_race
from sesr_lab.tracking.champions import CHECKSUM, WEIGHTS
from sesr_lab.tracking.experiments import experiment_id
from sesr_lab.tracking.journal import ATTEMPT, Record
from sesr_lab.tracking.outgoing import Outgoing, Place
from sesr_lab.tracking.publication import publish
from sesr_lab.tracking.store import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

KEY = "sesr.key"
"""The tag by which a run is found again, whoever has made it."""
_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")
"""What a store says of a run that it does not have: a server with basic authentication says the second."""
BATCHED = ("metrics", "params", "tags")
_MOST = {"metrics": 1000, "params": 100, "tags": 100}
"""As much as MLflow takes in one batch."""


class Carrier:
    """Carries records to one store. What goes wrong is raised as an Answer."""

    def __init__(self, uri: str, client: MlflowClient) -> None:
        self.uri, self.client = uri, client
        # Two threads that write to one SQLite file wait for each other inside of it, up to its timeout.
        self._turn = nullcontext() if is_http(uri) else threading.Lock()

    def create(self, run: Outgoing, parent_run_id: str) -> Place:
        """Where the run is: the one that has its key, if the store has it already, else a new one."""
        begin = run.story.begin
        with self._asking():
            number = experiment_id(self.client, self.uri, begin["experiment"])
            found = self.find(run.key, number)
            if found is not None:
                is_this = found.info.start_time == begin["time_ms"]  # else an earlier life has made it
                last = -1 if is_this else last_step(self.client, found)
                if run.story.attempt >= _attempt(found):
                    self._go_on(found.info.run_id, run.story.attempt)
                return Place(found.info.run_id, found.info.experiment_id, skip_until=last)
            parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
            tags = {**begin["tags"], KEY: run.key, **parent}
            made = self.client.create_run(number, begin["time_ms"], tags, begin["name"])
            faults.point("run created")
            return Place(made.info.run_id, number)

    def look_for(self, key: str) -> Run | None:
        """As `find`; what goes wrong is raised as an Answer."""
        with self._asking():
            return self.find(key)

    def find(self, key: str, number: str | None = None) -> Run | None:
        """The run that has that key as its tag or, made by version 0.1, as its id."""
        from mlflow.exceptions import MlflowException

        wanted = f"tags.`{KEY}` = '{key}'"
        places = [number] if number else [found.experiment_id for found in self.client.search_experiments()]
        for run in self.client.search_runs(places, wanted, max_results=1):
            return run
        try:
            run = self.client.get_run(key)
        except MlflowException as error:
            if error.error_code not in _UNKNOWN:
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def batch(self, place: Place, records: Sequence[Record]) -> None:
        """Metrics, params and tags of several records, in one request or as few as MLflow allows."""
        from mlflow.entities import Param, RunTag

        points: list[Metric] = []
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for record in records:
            if record.kind == "metrics":
                points += _points(record, place.skip_until)
            else:
                (params if record.kind == "params" else tags).update(record.content["values"])
        with self._asking():
            self.client.log_batch(
                place.run_id,
                points,
                [Param(key, value) for key, value in params.items()],
                [RunTag(key, value) for key, value in tags.items()],
                synchronous=True,
            )
        faults.point("numbers sent")

    def single(self, run: Outgoing, record: Record) -> None:
        """One record of any other kind; once more where another process has written the same just then."""
        for is_last in (False, False, True):
            try:
                self._single(run, record)
            except Refused as answer:
                if is_last or not is_race(answer):
                    raise
            else:
                return

    def _single(self, run: Outgoing, record: Record) -> None:
        place, content = run.place, record.content
        with self._asking():
            match record.kind:
                case "begin":
                    pass  # it was made when its place became known
                case "resume":
                    self._resume(run, int(content.get("attempt", 0)))
                case "experiment":
                    for key, value in content["values"].items():
                        self.client.set_experiment_tag(place.experiment_id, key, value)
                case "dataset":
                    self.client.log_inputs(place.run_id, datasets=[_dataset(content)])
                case "model_input":
                    self._model_input(place, content["model_id"])
                case "picture":
                    self._picture(run, record)
                case "file":
                    self._file(place, content["path"], _blob(run, record))
                case "publish":
                    self._publish(run, record)
                case "end":
                    self._end(place, content)
                case _:
                    raise Refused(f"a newer version has written {record.kind}")

    def attempt(self, place: Place) -> int:
        """The number of the last attempt at the run, by whichever machine; 0 where it is gone, or has none."""
        try:
            with self._asking():
                return _attempt(self.client.get_run(place.run_id))
        except Gone:  # whoever writes to it finds that out
            return 0

    def artifact(self, run: Outgoing, path: str) -> bytes:
        """The file at `path` among the run's artifacts, be it there already or still on its way."""
        waiting = run.waiting_file(path)
        if waiting is not None:
            return waiting
        folder = str(PurePosixPath(path).parent)
        if path not in {file.path for file in self.client.list_artifacts(run.place.run_id, folder)}:
            raise Refused(f"the run has no {path}")
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run.place.run_id, path, folder)).read_bytes()

    def _resume(self, run: Outgoing, attempt: int) -> None:
        if attempt:  # another machine may have logged since
            run.note(skip_until=last_step(self.client, self.client.get_run(run.place.run_id)))
        self._go_on(run.place.run_id, attempt)

    def _go_on(self, run_id: str, attempt: int) -> None:
        self.client.update_run(run_id, status="RUNNING")
        if attempt:
            self.client.set_tag(run_id, ATTEMPT, str(attempt))

    def _model_input(self, place: Place, model_id: str) -> None:
        from mlflow.entities import LoggedModelInput

        self.client.log_inputs(place.run_id, models=[LoggedModelInput(model_id)])

    def _picture(self, run: Outgoing, record: Record) -> None:
        """A picture and its thumbnail, under names that the UI reads, and that are the same when it is sent again."""
        from PIL import Image

        content, blob = record.content, _blob(run, record)
        key, step = content["key"], content["step"]
        identity = uuid5(NAMESPACE_URL, f"{run.key}/{key}/{step}")
        name = f"images/{key.replace('/', '~')}+step+{step}+timestamp+{content['time_ms']}+{identity}"
        thumbnail = io.BytesIO()
        try:
            with Image.open(io.BytesIO(blob)) as picture:
                size = 256 / max(picture.size)
                smaller = (max(1, round(picture.width * size)), max(1, round(picture.height * size)))
                picture.resize(smaller).save(thumbnail, "WEBP")
        except (OSError, SyntaxError) as error:
            raise Refused(f"it is damaged on this disk ({error})") from error
        self._file(run.place, f"{name}.png", blob)
        self._file(run.place, f"{name}+compressed.webp", thumbnail.getvalue())
        self.client.set_tag(run.place.run_id, "mlflow.loggedImages", "True")

    def _end(self, place: Place, content: Mapping[str, Any]) -> None:
        """A run that was found lost stays as it is where another machine has gone on with it and ended it."""
        if content.get("reason") == "lost" and self.client.get_run(place.run_id).info.status != "RUNNING":
            return
        self.client.set_terminated(place.run_id, content["status"], content["time_ms"])

    def _file(self, place: Place, name: str, blob: bytes) -> None:
        path = PurePosixPath(name)
        folder = None if path.parent == PurePosixPath() else str(path.parent)
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / path.name
            local.write_bytes(blob)
            self.client.log_artifact(place.run_id, str(local), folder)
        faults.point("file sent")

    def _publish(self, run: Outgoing, record: Record) -> None:
        content = record.content
        if "kept" in content:
            content = json.loads(self.artifact(run, content["kept"]))
        files = {name: self.artifact(run, path) for name, path in content["artifacts"].items()}
        if hashlib.sha256(files[WEIGHTS]).hexdigest() != content["tags"][CHECKSUM]:
            raise Refused(f"{content['artifacts'][WEIGHTS]} of the run is not what was scored")
        uri, model_id = publish(self.client, self.uri, run.place, content, files)
        run.note(model=uri, model_id=model_id)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._turn:
            try:
                yield
            # What is raised below MLflow is whatever its store's and artifact store's libraries have.
            except Exception as error:
                raise answer_to(error) from error

    def check_experiment(self, place: Place) -> None:
        """Raises NeedsUser if the run's experiment is deleted, which is why the run takes nothing."""
        with self._asking():
            experiment = self.client.get_experiment(place.experiment_id)
            if experiment.lifecycle_stage == "deleted":
                experiment_id(self.client, self.uri, experiment.name)


def groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    """The records in order, those together that fit into one batch."""
    group: list[Record] = []
    sizes: dict[str, int] = {}
    for record in records:
        size = len(record.content["values"]) if record.kind in BATCHED else 0
        fits = record.kind in BATCHED and sizes.get(record.kind, 0) + size <= _MOST[record.kind]
        if group and not (fits and group[0].kind in BATCHED):
            yield group
            group, sizes = [], {}
        group.append(record)
        sizes[record.kind] = sizes.get(record.kind, 0) + size
    if group:
        yield group


def _attempt(run: Run) -> int:
    return int(run.data.tags.get(ATTEMPT, 0))


def last_step(client: MlflowClient, run: Run) -> int:
    """The largest step of the run's metrics; -1 if it has none."""
    histories = (client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
    return max((point.step for history in histories for point in history), default=-1)


def _blob(run: Outgoing, record: Record) -> bytes:
    try:
        return run.blob(record)
    except FileNotFoundError as error:
        raise Refused(f"its file {error.filename} is gone") from error


def _points(record: Record, skip_until: int) -> list[Metric]:
    from mlflow.entities import Metric

    content = record.content
    if content["step"] <= skip_until and not content.get("is_result"):
        return []
    return [Metric(key, value, content["time_ms"], content["step"]) for key, value in content["values"].items()]


def _dataset(content: Mapping[str, Any]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    names = ("name", "digest", "source_type", "source", "profile")
    dataset = Dataset(**{name: content[name] for name in names})
    return DatasetInput(dataset, [InputTag("mlflow.data.context", content["context"])])
