"""What a store has answered: that it is away, that its user must do something, or that it will not take a write."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from sesr_lab.errors import StoreAwayError, StoreError
from sesr_lab.tracking.secrets import hide, shown


class Answer(Exception):  # noqa: N818 (what a store says is a state of the store, not a mistake)
    """Why a write was not taken, in one line."""


class Away(Answer):
    """The store does not answer now; the same write may succeed later."""


class NeedsUser(Answer):
    """The store answers that somebody must change something first; the write is kept until then."""


class Gone(NeedsUser):
    """What was written to is not in the store."""


class Refused(Answer):
    """The store will not take this write, now or later."""


NO_ANSWER = "no answer"
_LENGTH = 300
_STATUS = re.compile(r"failed with error code (\d{3})|^(\d{3}) (?:Client|Server) Error")
_USERS_BY_TEXT = (
    "out-of-date database schema",
    "no such table",
    "no such column",
    "undefinedtable",
    "undefinedcolumn",
    "readonly database",
    "read-only transaction",
    "unable to open database file",
    "file is not a database",
    "disk image is malformed",
    "password authentication failed",
    "access denied",
    "permission denied",
    "does not exist",
    "unity catalog",
    "not in a valid json format",
)
_AWAY_BY_TEXT = ("deadlock", "queuepool limit", "database is locked", "disk i/o error", "disk is full")
_USERS_CODES = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND", "NOT_FOUND"}
_AWAY_CODES = {
    "TEMPORARILY_UNAVAILABLE",
    "INTERNAL_ERROR",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "CANCELLED",
}
_RACE_BY_TEXT = ("unique constraint", "duplicate key")
"""SQLite's words, and PostgreSQL's."""
_AWAY_STATUS = {408, 409, 421, 423, 425, 429}
_USERS_STATUS = {401, 402, 403, 404, 407, 451}
_USERS_ERRNO = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT}


def answer_to(error: Exception) -> Answer:  # noqa: PLR0911 (one for each kind of error)
    """What `error`, raised by MLflow or below it, says about the store."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if isinstance(error, Answer):
        return error
    text = line_of(error)
    if isinstance(error, MlflowException):
        return _of_mlflow(error, text)
    if (status := _status_of(error)) is not None:
        return _of_status(status, text)
    if isinstance(error, RequestException):
        return Away(text)
    if isinstance(error, ImportError):
        return NeedsUser(f"{text}; install what reaches this store (pip install {error.name or 'it'})")
    if isinstance(error, OSError):
        return NeedsUser(text) if error.errno in _USERS_ERRNO else Away(text)
    if _says(error, _USERS_BY_TEXT):
        return NeedsUser(text)
    if type(error).__module__ == "builtins":  # a mistake in what was written: no store will ever take it
        return Refused(f"{type(error).__name__}: {text}")
    return Away(text)


def is_race(answer: Answer) -> bool:
    """Whether the store has refused a row because another process made it after MLflow had looked."""
    return _says(answer, _RACE_BY_TEXT)


def _of_mlflow(error: Exception, text: str) -> Answer:
    code = str(getattr(error, "error_code", ""))
    if (status := _status_of(error)) is not None:
        return _of_status(status, text)
    if code == "RESOURCE_DOES_NOT_EXIST":
        return Gone(text)
    if code in _USERS_CODES or _says(error, _USERS_BY_TEXT):
        return NeedsUser(text)
    if code in _AWAY_CODES or _says(error, _AWAY_BY_TEXT):
        return Away(text)
    return Refused(text)


def _of_status(status: int, text: str) -> Answer:
    if status in _AWAY_STATUS or status >= 500:
        return Away(text)
    if status in _USERS_STATUS or status < 400:
        return NeedsUser(text)
    return Refused(text)


def _status_of(error: Exception) -> int | None:
    """The HTTP status in an error of MLflow's, of requests or of a cloud's client, if there is one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # boto3
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", response)
    if isinstance(status, int):
        return status
    match = _STATUS.search(str(error))
    return int(match[1] or match[2]) if match else None


def _says(error: Exception, texts: tuple[str, ...]) -> bool:
    said = str(error).lower()
    return any(text in said for text in texts)


def line_of(error: BaseException) -> str:
    """The error in one line, without secrets."""
    text = str(error).strip() or type(error).__name__
    if any(sign in text for sign in ("Max retries exceeded", "Connection refused", "timeout exception")):
        return NO_ANSWER
    if "not in a valid JSON format" in text:
        return "what answers there is no MLflow server (it sends something else than JSON)"
    if (status := _STATUS.search(text)) is not None:
        return f"it answers with the status {status[1] or status[2]}"
    return hide(text.splitlines()[0].rstrip("."))[:_LENGTH]


@contextmanager
def reporting(uri: str, doing: str) -> Iterator[None]:
    """Turns what MLflow raises into one line: "URI: cannot DOING: why; what to do".

    Raises:
        StoreAwayError: the store does not answer now.
        StoreError: its user must do something, or asks for what cannot be had.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError, Answer) as error:
        answer = answer_to(error)
        kind = StoreAwayError if isinstance(answer, Away) else StoreError
        help_ = "" if isinstance(error, Answer) else f"; {advice(uri, error)}"  # an answer of ours says what to do
        raise kind(f"{shown(uri)}: cannot {doing}: {answer}{help_}") from error


def advice(uri: str, error: Exception) -> str:  # noqa: PLR0911 (one for each advice)
    """What to do about an error of the store at `uri`."""
    text = str(error).lower()
    if isinstance(error, ImportError):
        return "for PostgreSQL: pip install psycopg2-binary"
    if "out-of-date database schema" in text:
        return f"back it up, then: mlflow db upgrade {shown(uri)}; or use the MLflow that has written it"
    if uri.startswith("file:"):
        return (
            "MLflow no longer keeps runs in folders; convert it with `mlflow migrate-filestore`, or set"
            " MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        )
    if urlsplit(uri).scheme in {"http", "https"}:
        if line_of(error) == NO_ANSWER:
            return "is the MLflow server running? start it, or set MLFLOW_TRACKING_URI"
        if re.search(r"\b40[13]\b|permission|unauth", text):
            return "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return "check the server's address, or set MLFLOW_TRACKING_URI"
    if "database is locked" in text:
        return "another program holds the database: close it and try again"
    return "check the path and its permissions, or set MLFLOW_TRACKING_URI"
