"""Data sets: a source's pictures as luma to train on and crops to score on, decoded once and kept.

Every source becomes a Hugging Face `datasets.DatasetDict` with the splits `train` and `valid` and the columns
`name`, `hr` and `lr`; what follows is the same for all of them. `datasets` is imported inside functions: it
takes half a second.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sesr_lab.data import Progress, sources
from sesr_lab.data.fingerprint import fingerprint
from sesr_lab.data.folder import Location, Splits, split_folder
from sesr_lab.data.gallery import Gallery, of_training, training_name
from sesr_lab.data.hub import open_repository
from sesr_lab.data.pair import Sample, sample_planes, train_planes
from sesr_lab.data.patches import Pair
from sesr_lab.data.prepared import ArrayFolder, PreparedPairs, unpack
from sesr_lab.data.refusal import expanded
from sesr_lab.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

LrOrigin = Literal["bicubic", "paired"]

FORMAT = 2
"""Version of what is kept; raise it whenever their content would change."""


@dataclass(frozen=True)
class Data:
    """A source, ready to train on at one scale."""

    source: str
    scale: int
    train: Sequence[Pair]
    """Luma in [0, 1], float32; each picture is read from disk when it is asked for."""
    valid: Sequence[Sample]
    """Central crops, at most 512×512 HR."""
    fingerprint: str
    """SHA-256 of split names, picture names and HR files: the same at every scale."""
    lr_origin: LrOrigin
    """Whether LR pictures were made here by MATLAB's bicubic, or came with the source."""
    lr_fingerprint: str
    """SHA-256 of the LR files; empty where they were made here."""
    train_names: tuple[str, ...]
    train_sizes: tuple[tuple[int, int], ...]
    """LR height and width of each training picture, in pixels."""
    gallery: Gallery
    """Thumbnails of the training pictures, made when they are asked for."""

    @property
    def description(self) -> str:
        """One line: the source, its counts, and where LR comes from."""
        lr = "by MATLAB's bicubic" if self.lr_origin == "bicubic" else "from the source"
        counts = f"{len(self.train)} training and {len(self.valid)} validation pictures"
        return f"{self.source} x{self.scale}: {counts}, LR {lr}"

    def check_patch(self, patch: int) -> None:
        """Accepts LR patches of `patch` pixels a side.

        Raises:
            DataError: a training picture is smaller than that.
        """
        at = min(range(len(self.train_sizes)), key=lambda i: min(self.train_sizes[i]))
        height, width = self.train_sizes[at]
        if min(height, width) < patch:
            found = f"{self.train_names[at]} is {width}x{height} at low resolution, the patch {patch}x{patch}"
            largest = min(height, width) * self.scale  # --patch counts high-resolution pixels
            advice = f"use --patch {largest} or less, or remove the picture" if largest >= 16 else "remove the picture"
            raise DataError(f"{self.source}: {found}; {advice}")


def load(source: str, *, scale: int, cache: Path | None = None, progress: Progress | None = None) -> Data:
    """The pictures of `photos`, `div2k`, `folder:PATH` or `hub:REPO`, ready to train on.

    Args:
        cache: where downloads and prepared pictures are kept; `default_cache()` if None.
        progress: called while files are downloaded, read and prepared.

    Raises:
        DataError: the source is unknown, missing or damaged, or its pictures are too small or do not match.
    """
    cache = cache or default_cache()
    splits = open_source(source, scale=scale, cache=cache, progress=progress)
    return prepare(source, splits, scale=scale, cache=cache, progress=progress)


def default_cache() -> Path:
    """The folder that SESR_LAB_CACHE names, or ~/.cache/sesr-lab; DataError for one of a user that is unknown."""
    return expanded(os.environ.get("SESR_LAB_CACHE") or "~/.cache/sesr-lab")


def prepared_folder(cache: Path | None = None) -> Path:
    """Where prepared pictures are kept, each data set's in a folder called after its fingerprint."""
    return (cache or default_cache()) / f"prepared-{FORMAT}"


def open_source(source: str, *, scale: int, cache: Path, progress: Progress | None = None) -> DatasetDict:
    """The source's pictures as splits `train` and `valid` with columns `name`, `hr` and `lr`, not decoded.

    Raises:
        DataError: the source is unknown, missing or cannot be fetched.
    """
    kind, _, rest = source.partition(":")
    if source == "photos":
        return as_datasets(sources.photos())
    if source == "div2k":
        return as_datasets(sources.div2k(cache / "div2k", sources.DIV2K, scale=scale, progress=progress))
    if kind == "folder" and rest:
        return as_datasets(split_folder(expanded(rest), scale=scale))
    if kind == "hub" and rest:
        return open_repository(rest)
    raise DataError(f"--data {source}: no such source; allowed are {', '.join(sources.SOURCES)}")


def as_datasets(splits: Splits) -> DatasetDict:
    """Lists of pictures as Hugging Face datasets, still unread."""
    from datasets import Dataset, DatasetDict, Features, Image, Value

    features = Features(name=Value("string"), hr=Image(decode=False), lr=Image(decode=False))
    columns = {split: _columns(rows) for split, rows in splits._asdict().items()}
    return DatasetDict({split: Dataset.from_dict(lists, features) for split, lists in columns.items()})


def prepare(source: str, splits: DatasetDict, *, scale: int, cache: Path, progress: Progress | None = None) -> Data:
    """As `load`, for splits that are already open."""
    train, valid = splits["train"], splits["valid"]
    kept = cache / f"fingerprints-{FORMAT}"
    high = fingerprint(splits, "hr", memory=kept, progress=progress)
    lr_origin = _lr_origin(source, splits)
    low = fingerprint(splits, "lr", memory=kept, progress=progress) if lr_origin == "paired" else ""
    key = f"{high[:32]}-x{scale}-{lr_origin}{low[:16]}"
    arrays = ArrayFolder(prepared_folder(cache) / key)
    names = [training_name(i) for i in range(len(train))]
    pairs = PreparedPairs(arrays, names, lambda i: train_planes(train[i], scale))
    pairs.prepare(progress)
    return Data(
        source=source,
        scale=scale,
        train=pairs,
        valid=_samples(valid, arrays, scale, progress),
        fingerprint=high,
        lr_origin=lr_origin,
        lr_fingerprint=low,
        train_names=tuple(train["name"]),
        train_sizes=tuple(pairs.sizes()),
        gallery=of_training(arrays, pairs, train["name"], scale=scale),
    )


def _columns(rows: Sequence[Location]) -> dict[str, list[str | None]]:
    return {"name": [x.name for x in rows], "hr": [x.hr for x in rows], "lr": [x.lr for x in rows]}


def _samples(valid: Dataset, arrays: ArrayFolder, scale: int, progress: Progress | None) -> tuple[Sample, ...]:
    samples = []
    for done, row in enumerate(valid, start=1):
        planes = arrays.read(f"valid-{done - 1:05d}", partial(sample_planes, row, scale))
        lr, hr = unpack(planes)
        samples.append(Sample(row["name"], hr, lr))
        if progress is not None:
            progress(done, len(valid), "preparing validation pictures")
    return tuple(samples)


def _lr_origin(source: str, splits: DatasetDict) -> LrOrigin:
    paired = {row["lr"] is not None for split in splits.values() for row in split.select_columns("lr")}
    if len(paired) > 1:
        raise DataError(f"{source}: LR pictures for one of train and valid only; give both, or neither")
    return "paired" if paired == {True} else "bicubic"
