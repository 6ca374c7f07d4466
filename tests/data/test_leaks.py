"""Folders of photographs, some of which are in each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from sesr_lab.data import leaks
from sesr_lab.data.dataset import Data, load, prepared_folder
from sesr_lab.data.folder import paired_rows
from sesr_lab.data.gallery import Gallery, kept, of_folder
from sesr_lab.data.leaks import seen

pytestmark = pytest.mark.slow


def save(folder: Path, **pictures: Image.Image) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    return folder


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage_data, name)())


@pytest.fixture
def data(tmp_path: Path) -> Data:
    train = {name: photograph(name).reduce(2) for name in ("astronaut", "coffee", "chelsea", "camera")}
    save(tmp_path / "source" / "train", **train)
    save(tmp_path / "source" / "valid", rocket=photograph("rocket").reduce(2))
    return load(f"folder:{tmp_path / 'source'}", scale=2, cache=tmp_path / "cache")


def gallery(folder: Path) -> Gallery:
    return of_folder(paired_rows(folder, scale=2))


def test_a_crop_a_mirror_image_and_a_picture_around_are_found(data: Data, tmp_path: Path) -> None:
    collage = photograph("gravel")
    collage.paste(photograph("camera").resize((200, 200)), (100, 250))
    bench = save(
        tmp_path / "bench",
        brick=photograph("brick"),
        cup=photograph("coffee").crop((100, 50, 500, 350)),
        tac=photograph("chelsea").transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        wall=collage,
    )
    found = seen(data.gallery, gallery(bench))
    assert [(leak.picture, leak.training, leak.turn) for leak in found] == [
        ("cup.png", "coffee.png", ""),
        ("tac.png", "chelsea.png", "mirrored"),
        ("wall.png", "camera.png", ""),
    ]
    cup, _, wall = found
    assert (cup.within, wall.within) == ("training", "picture")
    # Within a twentieth of the side, as a place is known.
    assert (cup.left, cup.top, cup.width, cup.height) == pytest.approx((50, 25, 200, 150), abs=8)
    assert (wall.left, wall.top, wall.width, wall.height) == pytest.approx((100, 250, 200, 200), abs=10)
    assert f"{wall.width}x{wall.height} at {wall.left},{wall.top} of wall.png" == wall.where


def test_what_was_found_is_remembered_until_a_picture_changes(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = save(tmp_path / "bench", cup=photograph("coffee"))
    steps: list[int] = []
    found = seen(data.gallery, gallery(bench), lambda done, total, text: steps.append(done))
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert seen(data.gallery, gallery(bench), lambda done, total, text: steps.append(done)) == found
    assert len(steps) == 8
    save(bench, cup=photograph("rocket"))
    assert seen(data.gallery, gallery(bench), lambda done, total, text: steps.append(done)) == []
    assert len(steps) == 16
    monkeypatch.setattr(leaks, "_CHUNK", 3)  # however the pictures are grouped
    save(bench, cup=photograph("coffee"), other=photograph("brick"))
    del steps[:]
    assert seen(data.gallery, gallery(bench), lambda done, total, text: steps.append(done)) == found
    assert steps == sorted({*range(1, 9)})


def test_a_training_set_is_known_again_by_its_fingerprint(data: Data, tmp_path: Path) -> None:
    prepared = prepared_folder(tmp_path / "cache")
    known = kept(data.fingerprint, prepared)
    assert known is not None
    assert (known.names, known.sizes) == (data.gallery.names, data.gallery.sizes)
    assert known.sizes[known.names.index("coffee.png")] == (200, 300)
    assert all(map(np.array_equal, known.thumbnails, data.gallery.thumbnails))
    assert kept("0" * 64, prepared) is None
    assert kept("", prepared) is None
    assert kept(data.fingerprint, tmp_path / "nowhere") is None


def test_a_training_set_whose_pictures_are_gone_cannot_be_looked_through(data: Data, tmp_path: Path) -> None:
    prepared = prepared_folder(tmp_path / "cache")
    for file in prepared.glob("*/train-*.npy"):
        file.unlink()
    known = kept(data.fingerprint, prepared)
    assert known is not None
    with pytest.raises(LookupError):
        seen(known, gallery(save(tmp_path / "bench", cup=photograph("coffee"))))
