"""Writes to a run, carried out: what each kind of `Write` is in MLflow."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sesr_lab.tracking.spool import Refused, Unavailable, Write

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_ATTEMPTS, _BETWEEN_S = 2, 0.2
_NO_ANSWER = "Max retries exceeded"


def perform(client: MlflowClient, write: Write) -> None:
    """Carries out `write`; a short hiccup is tried again.

    Raises:
        Unavailable: the store does not answer now.
        Refused: it has answered that it will not.
    """
    from mlflow.exceptions import MlflowException

    failure: Exception | None = None
    for attempt in range(_ATTEMPTS):
        time.sleep(_BETWEEN_S if attempt else 0)
        try:
            return _carry_out(client, write)
        except MlflowException as error:
            if not is_transient(error):
                raise Refused(_first_line(error)) from error
            failure = error
            if _NO_ANSWER in str(error):  # the HTTP client has tried again by itself
                break
        except OSError as error:
            failure = error
    assert failure is not None
    raise Unavailable(_first_line(failure)) from failure


def _carry_out(client: MlflowClient, write: Write) -> None:
    from mlflow.entities import LoggedModelInput, Metric, Param, RunTag

    run_id, content = write.run_id, write.content
    values = content.get("values", {}).items()
    match write.kind:
        case "metrics":
            when, step = content["time_ms"], content["step"]
            points = [Metric(key, value, when, step) for key, value in values]
            client.log_batch(run_id, metrics=points, synchronous=True)
        case "params":
            client.log_batch(run_id, params=[Param(key, value) for key, value in values], synchronous=True)
        case "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values], synchronous=True)
        case "picture":
            _log_picture(client, write)
        case "file":
            _log_file(client, write)
        case "dataset":
            client.log_inputs(run_id, datasets=[_dataset(write)])
        case "model_input":
            client.log_inputs(run_id, models=[LoggedModelInput(content["model_id"])])
        case "end":
            client.set_terminated(run_id, content["status"], content["time_ms"])


def _log_picture(client: MlflowClient, write: Write) -> None:
    from PIL import Image

    content = write.content
    picture = Image.open(io.BytesIO(write.blob))
    where = {"key": content["key"], "step": content["step"], "timestamp": content["time_ms"]}
    client.log_image(write.run_id, picture, synchronous=True, **where)


def _log_file(client: MlflowClient, write: Write) -> None:
    path = PurePosixPath(write.content["path"])
    folder = None if path.parent == PurePosixPath() else str(path.parent)
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / path.name
        local.write_bytes(write.blob)
        client.log_artifact(write.run_id, str(local), folder)


def _dataset(write: Write) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    names = ("name", "digest", "source_type", "source", "profile")
    dataset = Dataset(**{name: write.content[name] for name in names})
    return DatasetInput(dataset, [InputTag("mlflow.data.context", write.content["context"])])


def is_transient(error: Exception) -> bool:
    """Whether the store may answer if it is asked again."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return isinstance(error, ConnectionError | TimeoutError)
    return error.error_code in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"}


def _first_line(error: Exception) -> str:
    text = str(error)
    return "no answer" if _NO_ANSWER in text else (text.strip().splitlines() or [""])[0][:200]
