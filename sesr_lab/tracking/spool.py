"""The spool of version 0.1, a SQLite file: what still waits in it is moved to the journals, and sent from there."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from sesr_lab.errors import RunHeldError, StoreError
from sesr_lab.tracking.journal import Journals
from sesr_lab.tracking.store import sqlite_path

logger = logging.getLogger(__name__)


def take_over(journals: Journals) -> None:
    """Moves the writes that version 0.1 has left for this store; a file that cannot be read is set aside."""
    path = journals.state / "spool" / "spool.db"
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=20)) as spool, spool:
            _move(spool, journals)
            (left,) = spool.execute("SELECT count(*) FROM writes").fetchone()
    except (sqlite3.Error, ValueError, KeyError) as error:
        aside = path.with_name("spool.damaged")
        path.replace(aside)
        logger.warning("%s cannot be read (%s); it is set aside as %s", path, error, aside.name)
        return
    except (RunHeldError, StoreError, OSError) as error:
        logger.warning("%s still holds writes of an earlier version: %s", path, error)
        return
    if not left:
        path.unlink(missing_ok=True)


def _move(spool: sqlite3.Connection, journals: Journals) -> None:
    """Appends what waits for a run to the journal whose key is the run's id, and then forgets it here."""
    names = _names_of(journals.uri)
    holders = ", ".join("?" * len(names))
    rows = spool.execute(
        f"SELECT id, run_id, kind, content, blob FROM writes WHERE store IN ({holders}) ORDER BY run_id, id",
        names,
    ).fetchall()
    for run_id in dict.fromkeys(row[1] for row in rows):
        writer = journals.open(run_id)
        try:
            for number, _, kind, content, blob in (row for row in rows if row[1] == run_id):
                writer.append(kind, json.loads(content), blob if kind in ("picture", "file") else None)
                spool.execute("DELETE FROM writes WHERE id = ?", [number])
        finally:
            writer.close()
    if rows:
        logger.info("took over %d writes that an earlier version had left", len(rows))


def _names_of(uri: str) -> list[str]:
    """How version 0.1 may have written the store's URI."""
    path = sqlite_path(uri)
    return [uri] if path is None else list(dict.fromkeys([uri, f"sqlite:///{path}", f"sqlite:///{Path(path)}"]))
