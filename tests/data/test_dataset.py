"""Oracles: the pictures that the files were made from, scikit-image's own decoding, and `image`'s bicubic."""

import hashlib
import json
import multiprocessing
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data as skimage_data

from sesr_lab.data import dataset as data
from sesr_lab.data import pair as row
from sesr_lab.data.dataset import Data, load, sources
from sesr_lab.data.folder import held_out
from sesr_lab.data.image import downscale, luma, modcrop
from sesr_lab.data.patches import LEVELS, PatchPool
from sesr_lab.errors import DataError

STEP = 1 / LEVELS
"""Kept luma is rounded to this."""


def picture(seed: int, height: int = 48, width: int = 64, *, grey: bool = False) -> NDArray[np.uint8]:
    shape = (height, width) if grey else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def png(array: NDArray[np.uint8]) -> bytes:
    return encoded(array)


def write(path: Path, array: NDArray[np.uint8], kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(array, kind))
    return path


def bomb() -> bytes:
    """A PNG that claims to be 100,000 pixels a side."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    parts = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def open_data(cache: Path) -> Callable[..., Data]:
    return partial(load, scale=2, cache=cache)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of ten colour pictures of 64x48."""
    for i in range(10):
        write(tmp_path / "pictures" / f"{i}.png", picture(i))
    return tmp_path / "pictures"


def refusal(source: str | Path, cache: Path, *, scale: int = 2) -> str:
    with pytest.raises(DataError) as caught:
        load(source if isinstance(source, str) else f"folder:{source}", scale=scale, cache=cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(loaded: Data) -> tuple[set[str], set[str]]:
    return set(loaded.train_names), {sample.name for sample in loaded.valid}


# photos


@pytest.mark.parametrize("scale", [2, 4])
def test_photos_are_the_pictures_that_scikit_image_reads(cache: Path, scale: int) -> None:
    loaded = load("photos", scale=scale, cache=cache)
    index = loaded.train_names.index("astronaut.png")
    expected = modcrop(skimage_data.astronaut(), scale)
    pair = loaded.train[index]
    np.testing.assert_allclose(pair.hr, luma(expected) / 255, atol=STEP)
    np.testing.assert_allclose(pair.lr, luma(downscale(expected, scale)) / 255, atol=STEP)
    assert pair.hr.dtype == pair.lr.dtype == np.float32


def test_photos_train_on_none_of_the_pictures_that_score_them(open_data: Callable[..., Data]) -> None:
    train, valid = names(open_data("photos"))
    assert train.isdisjoint(valid)
    assert len(valid) >= 3


def test_photos_hold_a_patch_of_the_paper_at_both_scales(cache: Path) -> None:
    load("photos", scale=2, cache=cache).check_patch(64)
    load("photos", scale=4, cache=cache).check_patch(50)


def test_photos_become_a_pool_of_patches(open_data: Callable[..., Data]) -> None:
    import torch

    loaded = open_data("photos")
    pool = PatchPool(loaded.train, scale=2, device=torch.device("cpu"))
    assert pool.images == len(loaded.train) == len(loaded.train_sizes)
    assert pool.smallest_side == min(map(min, loaded.train_sizes))


def test_photos_of_another_wheel_are_reported_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PHOTOS_TRAIN", ("astronaut.png", "skylab.png"))
    message = refusal("photos", cache)
    assert "has no skylab.png" in message
    assert "reinstall scikit-image" in message


# folders


def test_a_folder_gives_the_pictures_in_it(pictures: Path, open_data: Callable[..., Data]) -> None:
    loaded = open_data(f"folder:{pictures}")
    pair = loaded.train[loaded.train_names.index("3.png")]
    np.testing.assert_allclose(pair.hr, luma(picture(3)) / 255, atol=STEP)
    assert loaded.lr_origin == "bicubic"
    assert loaded.lr_fingerprint == ""
    assert loaded.description == (f"folder:{pictures} x2: 9 training and 1 validation pictures, LR by MATLAB's bicubic")


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (30, 2), (100, 5), (1000, 16)])
def test_about_a_twentieth_is_held_out(count: int, kept: int) -> None:
    assert len(held_out([f"{i}.png" for i in range(count)], where="a")) == kept


def test_the_hold_out_depends_on_names_alone() -> None:
    files = [f"{i}.png" for i in range(100)]
    kept = {files[i] for i in held_out(files, where="a")}
    turned = files[::-1]
    assert {turned[i] for i in held_out(turned, where="a")} == kept


def test_a_hold_out_is_apart_from_training(pictures: Path, open_data: Callable[..., Data]) -> None:
    train, valid = names(open_data(f"folder:{pictures}"))
    assert train | valid == {f"{i}.png" for i in range(10)}
    assert train.isdisjoint(valid)


def test_folders_called_train_and_valid_are_taken_as_they_are(tmp_path: Path, open_data: Callable[..., Data]) -> None:
    for split, seed in (("train", 0), ("valid", 1)):
        write(tmp_path / "set" / split / f"{split}.png", picture(seed))
    assert names(open_data(f"folder:{tmp_path / 'set'}")) == ({"train.png"}, {"valid.png"})


def test_a_folder_called_valid_alone_is_refused(pictures: Path, cache: Path) -> None:
    write(pictures / "valid" / "a.png", picture(0))
    assert "valid/ but no train/; put the pictures to train on into" in refusal(pictures, cache)


def test_grey_values_are_luma(tmp_path: Path, open_data: Callable[..., Data]) -> None:
    for i in range(2):
        write(tmp_path / "grey" / f"{i}.png", picture(i, grey=True))
    loaded = open_data(f"folder:{tmp_path / 'grey'}")
    truth = picture(int(loaded.train_names[0][0]), grey=True)
    np.testing.assert_allclose(loaded.train[0].hr, truth / 255, atol=STEP)
    assert loaded.valid[0].hr.ndim == 2


def test_odd_sizes_are_cut_to_a_multiple_of_the_scale(tmp_path: Path, cache: Path) -> None:
    for i in range(2):
        write(tmp_path / "odd" / f"{i}.png", picture(i, 51, 67))
    loaded = load(f"folder:{tmp_path / 'odd'}", scale=4, cache=cache)
    assert loaded.train[0].hr.shape == (48, 64)
    assert loaded.train[0].lr.shape == (12, 16)
    assert loaded.valid[0].hr.shape == (48, 64, 3)
    truth = picture(int(loaded.train_names[0][0]), 51, 67)
    np.testing.assert_allclose(loaded.train[0].hr, luma(truth[:48, :64]) / 255, atol=STEP)


def test_validation_pictures_are_central_crops_with_lr_of_their_own(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "set" / "train" / "a.png", picture(0))
    write(tmp_path / "set" / "valid" / "b.png", picture(1, 600, 700))
    crop = picture(1, 600, 700)[44 : 44 + 512, 92 : 92 + 512]  # 94, moved to a multiple of 4
    for scale in (2, 4):
        sample = load(f"folder:{tmp_path / 'set'}", scale=scale, cache=cache).valid[0]
        np.testing.assert_array_equal(sample.hr, crop)
        np.testing.assert_array_equal(sample.lr, downscale(crop, scale))


def test_the_fingerprint_is_the_same_at_both_scales_and_changes_with_a_picture(pictures: Path, cache: Path) -> None:
    first = load(f"folder:{pictures}", scale=2, cache=cache).fingerprint
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    assert load(f"folder:{pictures}", scale=4, cache=cache).fingerprint == first
    write(pictures / "3.png", picture(33))
    assert load(f"folder:{pictures}", scale=2, cache=cache).fingerprint != first


def test_the_fingerprint_does_not_depend_on_where_pictures_lie(pictures: Path, tmp_path: Path, cache: Path) -> None:
    first = load(f"folder:{pictures}", scale=2, cache=cache).fingerprint
    moved = pictures.rename(tmp_path / "moved")
    assert load(f"folder:{moved}", scale=2, cache=cache).fingerprint == first


def replaced(old: Path, array: NDArray[np.uint8]) -> None:
    """Writes another picture over a file of the same length and gives it its old times, as `cp -p` does."""
    times = old.stat()
    with old.open("r+b") as file:
        file.write(encoded(array, "BMP"))
    assert old.stat().st_size == times.st_size
    os.utime(old, ns=(times.st_atime_ns, times.st_mtime_ns))


def age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets files count as old enough for their marks to be relied on."""
    from sesr_lab.data import mark

    monkeypatch.setattr(mark, "SETTLED_S", -1.0)


@pytest.mark.parametrize("place", ["HR", "LR_x2"])
def test_a_file_replaced_by_one_of_the_same_size_and_time_is_noticed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    age(monkeypatch)
    sizes = {"HR": (48, 64, 3), "LR_x2": (24, 32, 3)}
    for part, size in sizes.items():
        for i in range(3):
            write(tmp_path / "set" / part / f"{i}.png", np.full(size, 9, np.uint8), "BMP")
    before = load(f"folder:{tmp_path / 'set'}", scale=2, cache=cache)
    for i in range(3):
        replaced(tmp_path / "set" / place / f"{i}.png", np.full(sizes[place], 200, np.uint8))
    after = load(f"folder:{tmp_path / 'set'}", scale=2, cache=cache)
    assert (before.fingerprint != after.fingerprint) == (place == "HR")
    assert (before.lr_fingerprint != after.lr_fingerprint) == (place == "LR_x2")
    read = after.train[0].hr if place == "HR" else after.train[0].lr
    np.testing.assert_allclose(read, (16 + 200 * 219 / 255) / 255, atol=STEP)


def test_a_link_that_points_to_another_file_is_noticed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(monkeypatch)
    for name, level in (("one", 10), ("two", 20)):
        write(tmp_path / f"{name}.bmp", np.full((48, 64, 3), level, np.uint8), "BMP")
        os.utime(tmp_path / f"{name}.bmp", ns=(10**18, 10**18))
    folder = tmp_path / "set"
    folder.mkdir()
    found = []
    for target in ("one", "two"):
        for name in ("a.bmp", "b.bmp"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(tmp_path / f"{target}.bmp")
        found.append(load(f"folder:{folder}", scale=2, cache=cache).fingerprint)
    assert found[0] != found[1]


def test_files_are_hashed_once_they_are_known_and_old_enough(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(f"folder:{pictures}", scale=2, cache=cache).fingerprint
    assert not list(cache.glob("fingerprints-*/*"))  # they may change again within a tick of the clock
    age(monkeypatch)
    load(f"folder:{pictures}", scale=2, cache=cache)
    seen: list[str] = []
    again = load(f"folder:{pictures}", scale=2, cache=cache, progress=lambda *at: seen.append(at[2]))
    assert again.fingerprint == first
    assert "reading pictures" not in seen


@pytest.mark.parametrize("damage", [lambda text: "", lambda text: "0" + text[1:], lambda text: "x" * 64])
def test_a_damaged_memory_of_fingerprints_is_made_again(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[str], str]
) -> None:
    age(monkeypatch)
    first = load(f"folder:{pictures}", scale=2, cache=cache).fingerprint
    (known,) = cache.glob("fingerprints-*/*")
    intact = known.read_text()
    known.write_text(damage(intact))
    assert load(f"folder:{pictures}", scale=2, cache=cache).fingerprint == first
    assert known.read_text() == intact


# paired LR


def write_pairs(root: Path, count: int = 3, *, suffix: str = "", scale: int = 2) -> Path:
    """Pairs whose LR is no bicubic: its levels are those of HR's first pixels."""
    for i in range(count):
        hr = picture(i)
        write(root / "HR" / f"000{i}.png", hr)
        write(root / f"LR_x{scale}" / f"000{i}{suffix}.png", hr[::scale, ::scale])
    return root


@pytest.mark.parametrize("suffix", ["", "x2"])
def test_lr_pictures_of_a_folder_are_used(tmp_path: Path, open_data: Callable[..., Data], suffix: str) -> None:
    loaded = open_data(f"folder:{write_pairs(tmp_path / 'set', suffix=suffix)}")
    truth = picture(int(loaded.train_names[0][3]))
    np.testing.assert_allclose(loaded.train[0].lr, luma(truth[::2, ::2]) / 255, atol=STEP)
    assert loaded.lr_origin == "paired"
    assert re.fullmatch(r"[0-9a-f]{64}", loaded.lr_fingerprint)


def test_the_validation_crop_of_paired_lr_matches_that_of_hr(tmp_path: Path, open_data: Callable[..., Data]) -> None:
    write(tmp_path / "set/train/HR/a.png", picture(0))
    write(tmp_path / "set/train/LR_x2/a.png", picture(0)[::2, ::2])
    large = picture(1, 600, 700)
    write(tmp_path / "set/valid/HR/b.png", large)
    write(tmp_path / "set/valid/LR_x2/bx2.png", large[::2, ::2])
    sample = open_data(f"folder:{tmp_path / 'set'}").valid[0]
    assert sample.hr.shape == (512, 512, 3)
    np.testing.assert_array_equal(sample.lr, sample.hr[::2, ::2])


def test_paired_and_own_lr_of_the_same_pictures_share_a_fingerprint(tmp_path: Path, cache: Path) -> None:
    paired = write_pairs(tmp_path / "set")
    at_x2 = load(f"folder:{paired}", scale=2, cache=cache)
    at_x4 = load(f"folder:{paired}", scale=4, cache=cache)
    assert (at_x2.lr_origin, at_x4.lr_origin) == ("paired", "bicubic")
    assert at_x2.fingerprint == at_x4.fingerprint


def test_changed_lr_pictures_are_prepared_anew(tmp_path: Path, open_data: Callable[..., Data]) -> None:
    paired = write_pairs(tmp_path / "set")
    before = open_data(f"folder:{paired}")
    for i in range(3):
        write(paired / "LR_x2" / f"000{i}.png", np.zeros((24, 32, 3), np.uint8))
    after = open_data(f"folder:{paired}")
    assert before.lr_fingerprint != after.lr_fingerprint
    np.testing.assert_allclose(after.train[0].lr, 16 / 255, atol=STEP)


def test_an_hr_picture_without_lr_is_named(tmp_path: Path, cache: Path) -> None:
    paired = write_pairs(tmp_path / "set")
    (paired / "LR_x2" / "0001.png").unlink()
    assert "no LR picture for 0001; one is needed: 0001.png or 0001x2.png" in refusal(paired, cache)


def test_two_lr_pictures_for_one_hr_picture_are_named(tmp_path: Path, cache: Path) -> None:
    paired = write_pairs(tmp_path / "set")
    write(paired / "LR_x2" / "0001x2.png", picture(1)[::2, ::2])
    assert "0001.png and 0001x2.png for 0001" in refusal(paired, cache)


def test_an_lr_picture_of_the_wrong_size_is_named_with_the_right_one(tmp_path: Path, cache: Path) -> None:
    paired = write_pairs(tmp_path / "set")
    for i in range(3):
        write(paired / "LR_x2" / f"000{i}.png", picture(1)[::2, 2::2])
    message = refusal(paired, cache)
    assert re.search(r"LR_x2/000\d.png: LR is 31x24 pixels; 64x48 at high resolution needs 32x24 at x2", message)


def test_lr_for_training_alone_is_refused(tmp_path: Path, cache: Path) -> None:
    write_pairs(tmp_path / "set" / "train")
    write(tmp_path / "set" / "valid" / "a.png", picture(9))
    assert "for one of train and valid only" in refusal(tmp_path / "set", cache)


# bad input


@pytest.mark.parametrize("source", ["photo", "photos:", "folder", "folder:", "hub:", "DIV2K", "", "ftp://x"])
def test_an_unknown_source_is_answered_with_the_known_ones(source: str, cache: Path) -> None:
    assert "allowed are photos, div2k, folder:PATH, hub:REPO" in refusal(source, cache)


def test_a_missing_folder_is_refused(tmp_path: Path, cache: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere", cache)


def test_an_empty_folder_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no pictures in this folder" in refusal(tmp_path / "empty", cache)


def test_a_single_picture_is_refused(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "one" / "a.png", picture(0))
    assert "2 or more are needed" in refusal(tmp_path / "one", cache)


def test_a_truncated_picture_is_refused(pictures: Path, cache: Path) -> None:
    (pictures / "4.png").write_bytes(png(picture(4))[:200])
    assert re.search(r"4\.png: .*damaged", refusal(pictures, cache))


def test_a_file_that_is_no_picture_is_refused(pictures: Path, cache: Path) -> None:
    (pictures / "4.png").write_bytes(b"<html>")
    assert "4.png: not a picture" in refusal(pictures, cache)


def test_a_decompression_bomb_is_refused(pictures: Path, cache: Path) -> None:
    (pictures / "4.png").write_bytes(bomb())
    assert "megapixels" in refusal(pictures, cache)


def test_a_validation_picture_too_small_for_ssim_is_refused(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "set" / "train" / "a.png", picture(0))
    write(tmp_path / "set" / "valid" / "b.png", picture(1, 14, 30))
    assert "b.png: 30x14 pixels; 16x16 or more are needed" in refusal(tmp_path / "set", cache)


def test_a_picture_smaller_than_the_patch_is_named(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "set" / "train" / "large.png", picture(0))
    write(tmp_path / "set" / "train" / "small.png", picture(0, 40, 80))
    write(tmp_path / "set" / "valid" / "b.png", picture(1))
    loaded = load(f"folder:{tmp_path / 'set'}", scale=2, cache=cache)
    loaded.check_patch(20)
    with pytest.raises(DataError, match=r"small\.png is 40x20 at low .*, the patch 21x21; use --patch 40 or less"):
        loaded.check_patch(21)


# what is kept


def kept_files(cache: Path) -> list[Path]:
    return sorted(cache.glob("prepared-*/*/train-*.npy"))


def test_prepared_pictures_are_read_on_the_next_start(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(f"folder:{pictures}", scale=2, cache=cache)
    monkeypatch.setattr(row, "read_picture", lambda *_, **__: pytest.fail("a picture was decoded again"))
    second = load(f"folder:{pictures}", scale=2, cache=cache)
    for before, after in zip(first.train, second.train, strict=True):
        np.testing.assert_array_equal(before.lr, after.lr)
        np.testing.assert_array_equal(before.hr, after.hr)
    np.testing.assert_array_equal(first.valid[0].hr, second.valid[0].hr)
    np.testing.assert_array_equal(first.valid[0].lr, second.valid[0].lr)


def test_progress_counts_the_pictures(pictures: Path, cache: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    load(f"folder:{pictures}", scale=2, cache=cache, progress=lambda *at: seen.append(at))
    assert (10, 10, "reading pictures") in seen
    assert (9, 9, "preparing 9 training pictures") in seen
    assert (1, 1, "preparing validation pictures") in seen


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def damage_the_header(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[20:40] = b"\xff" * 20
    file.write_bytes(content)


def break_a_bracket(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(b")")] = ord("(")
    file.write_bytes(content)


def name_another_type(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"<i2", b"<u2", 1))


def name_an_object(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"'<i2'", b"'|O' ", 1))


def turn_the_axes(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"'fortran_order': False", b"'fortran_order': True ", 1))


def claim_a_huge_header(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8:10] = b"\xff\xff"
    file.write_bytes(content)


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


def alter_the_checksum(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def put_a_folder_there(file: Path) -> None:
    file.unlink()
    file.mkdir()


def put_a_pipe_there(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def lock(file: Path) -> None:
    file.chmod(0)


DAMAGES = [
    *(cut_short, flip_a_bit, empty, damage_the_header, break_a_bracket, name_another_type, name_an_object),
    *(turn_the_axes, claim_a_huge_header, append, alter_the_checksum, put_a_folder_there, put_a_pipe_there, lock),
    Path.unlink,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_kept_picture_is_made_again(pictures: Path, cache: Path, damage: Callable[[Path], None]) -> None:
    first = [pair.hr.copy() for pair in load(f"folder:{pictures}", scale=2, cache=cache).train]
    intact = kept_files(cache)[3].read_bytes()
    damage(kept_files(cache)[3])
    again = load(f"folder:{pictures}", scale=2, cache=cache).train
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after.hr)
    assert kept_files(cache)[3].read_bytes() == intact


def test_a_cache_that_cannot_be_written_costs_a_warning_only(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    loaded = load(f"folder:{pictures}", scale=2, cache=tmp_path / "file" / "cache")
    assert loaded.train[0].hr.shape == (48, 64)
    assert loaded.valid[0].hr.shape == (48, 64, 3)
    assert len(caplog.records) == 1
    assert "set SESR_LAB_CACHE" in caplog.text


def test_the_cache_is_where_the_variable_says(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESR_LAB_CACHE", str(tmp_path / "named"))
    load(f"folder:{pictures}", scale=2)
    assert kept_files(tmp_path / "named")


def _load_in_process(source: str, cache: Path) -> str:
    loaded = load(source, scale=2, cache=cache)
    return hashlib.sha256(b"".join(pair.hr.tobytes() for pair in loaded.train)).hexdigest()


@pytest.mark.slow
def test_two_processes_may_prepare_the_same_pictures(pictures: Path, cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        found = processes.starmap(_load_in_process, [(f"folder:{pictures}", cache)] * 2)
    assert found[0] == found[1] == _load_in_process(f"folder:{pictures}", cache)
    assert not list(cache.glob("**/*.tmp"))


def test_nothing_is_decoded_before_it_is_asked_for(pictures: Path, open_data: Callable[..., Data]) -> None:
    loaded = open_data(f"folder:{pictures}")
    assert isinstance(loaded.train.planes(0), np.memmap)
    assert loaded.train[-1].hr.shape == (48, 64)
    assert len(loaded.train[2:5]) == 3


# DIV2K


def zip_of(path: Path, members: dict[str, bytes]) -> tuple[int, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()


def fake_div2k(folder: Path) -> sources.Archives:
    """Six small zips laid out as the official ones; LR members are stored in another order than HR."""
    archives = {}
    for split, first in (("train", 1), ("valid", 801)):
        numbers = range(first, first + 3)
        high = {f"DIV2K_{split}_HR/{n:04d}.png": png(picture(n)) for n in numbers}
        archives[f"DIV2K_{split}_HR.zip"] = zip_of(folder / f"DIV2K_{split}_HR.zip", high)
        for scale in (2, 4):
            name = f"DIV2K_{split}_LR_bicubic_X{scale}.zip"
            inside = f"DIV2K_{split}_LR_bicubic/X{scale}"
            low = {f"{inside}/{n:04d}x{scale}.png": png(downscale(picture(n), scale)) for n in reversed(numbers)}
            archives[name] = zip_of(folder / name, low)
    return archives


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server with small zips in place of DIV2K's, whose sizes and checksums are known."""
    folder = tmp_path / "mirror"
    monkeypatch.setattr(data.sources, "DIV2K", fake_div2k(folder))
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder)))
    monkeypatch.setenv("SESR_LAB_DIV2K_URL", f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("scale", [2, 4])
def test_div2k_is_fetched_and_paired_by_name(mirror: Path, cache: Path, scale: int) -> None:
    loaded = load("div2k", scale=scale, cache=cache)
    assert loaded.train_names == ("0001.png", "0002.png", "0003.png")
    assert [sample.name for sample in loaded.valid] == ["0801.png", "0802.png", "0803.png"]
    assert loaded.lr_origin == "paired"
    for number, pair in enumerate(loaded.train, start=1):
        np.testing.assert_allclose(pair.hr, luma(picture(number)) / 255, atol=STEP)
        np.testing.assert_allclose(pair.lr, luma(downscale(picture(number), scale)) / 255, atol=STEP)
    np.testing.assert_array_equal(loaded.valid[1].lr, downscale(picture(802), scale))


def test_div2k_works_without_its_server_once_it_is_there(
    mirror: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("div2k", scale=2, cache=cache)
    monkeypatch.setenv("SESR_LAB_DIV2K_URL", "http://127.0.0.1:9")
    assert load("div2k", scale=2, cache=cache).fingerprint == first.fingerprint


def test_div2k_has_the_same_fingerprint_at_both_scales(mirror: Path, cache: Path) -> None:
    found = {load("div2k", scale=scale, cache=cache).fingerprint for scale in (2, 4)}
    assert len(found) == 1


def test_an_altered_div2k_zip_is_refused(mirror: Path, cache: Path) -> None:
    content = bytearray((mirror / "DIV2K_valid_HR.zip").read_bytes())
    content[100] ^= 1
    (mirror / "DIV2K_valid_HR.zip").write_bytes(content)
    message = refusal("div2k", cache)
    assert "DIV2K_valid_HR.zip: SHA-256 is" in message


def test_the_official_zips_are_listed_with_size_and_checksum() -> None:
    assert len(sources.DIV2K) == 6
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for _, sha256 in sources.DIV2K.values())
    assert round(sum(size for size, _ in sources.DIV2K.values()) / 1e9, 1) == 5.3


# the hub: a local folder is loaded by the same code as a repository


def write_repository(folder: Path, splits: dict[str, list[bytes]], column: str = "image") -> Path:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({column: ImageFeature(), "caption": Value("string")})
    (folder / "data").mkdir(parents=True)
    for split, files in splits.items():
        rows = {column: [{"bytes": file, "path": None} for file in files], "caption": ["a"] * len(files)}
        Dataset.from_dict(rows, features).to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What datasets keeps goes under tmp_path, and no server is asked."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("hub_home")
@pytest.mark.parametrize("column", ["image", "hr", "photo"])
def test_a_repository_gives_its_image_column(tmp_path: Path, cache: Path, column: str) -> None:
    files = {"train": [png(picture(i)) for i in range(3)], "validation": [png(picture(9))]}
    loaded = load(f"hub:{write_repository(tmp_path / 'repo', files, column)}", scale=2, cache=cache)
    assert len(loaded.train) == 3
    np.testing.assert_allclose(loaded.train[1].hr, luma(picture(1)) / 255, atol=STEP)
    np.testing.assert_array_equal(loaded.valid[0].hr, picture(9))


@pytest.mark.usefixtures("hub_home")
def test_a_repository_with_one_split_is_split(tmp_path: Path, cache: Path) -> None:
    repository = write_repository(tmp_path / "repo", {"train": [png(picture(i)) for i in range(5)]})
    loaded = load(f"hub:{repository}", scale=2, cache=cache)
    assert (len(loaded.train), len(loaded.valid)) == (4, 1)
    assert loaded.valid[0].name not in loaded.train_names


@pytest.mark.usefixtures("hub_home")
def test_a_damaged_picture_in_a_repository_is_named(tmp_path: Path, cache: Path) -> None:
    files = {"train": [png(picture(0)), b"nothing"], "test": [png(picture(1))]}
    repository = write_repository(tmp_path / "repo", files)
    assert f"hub:{repository} train picture 1: not a picture" in refusal(f"hub:{repository}", cache)


def write_rows(folder: Path, cells: list[dict[str, object] | None]) -> Path:
    """A repository whose image column holds just these cells, as its table is stored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
    table = pa.table({"image": pa.array(cells, type=kind)}).replace_schema_metadata({"huggingface": features})
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    return folder


def cell(seed: int) -> dict[str, object]:
    return {"bytes": png(picture(seed)), "path": None}


@pytest.mark.usefixtures("hub_home")
@pytest.mark.parametrize(
    "path", ["/dev/zero", "/etc/passwd", "mine.png", "../mine.png", "http://127.0.0.1:9/a.png", "zip://a.png::/a.zip"]
)
def test_a_row_that_names_a_file_instead_of_holding_a_picture_is_refused(
    tmp_path: Path, cache: Path, path: str
) -> None:
    write(tmp_path / "mine.png", picture(5))
    repository = write_rows(tmp_path / "repo", [cell(0), cell(1), {"bytes": None, "path": path}])
    message = refusal(f"hub:{repository}", cache)
    assert f"hub:{repository} train picture 2: names {path} of this machine instead of holding a picture" in message


@pytest.mark.usefixtures("hub_home")
@pytest.mark.parametrize(
    ("odd", "found"),
    [
        (None, "a row without a picture"),
        ({"bytes": None, "path": None}, "a row without a picture"),
        ({"bytes": b"", "path": None}, "an empty file"),
    ],
)
def test_a_row_without_a_picture_is_named(
    tmp_path: Path, cache: Path, odd: dict[str, object] | None, found: str
) -> None:
    repository = write_rows(tmp_path / "repo", [cell(0), odd, cell(1)])
    assert f"hub:{repository} train picture 1: {found}" in refusal(f"hub:{repository}", cache)


@pytest.mark.usefixtures("hub_home")
def test_a_repository_of_plain_files_gives_those_that_lie_in_it(tmp_path: Path, cache: Path) -> None:
    for i in range(3):
        write(tmp_path / "repo" / f"{i}.png", picture(i))
    assert len(load(f"hub:{tmp_path / 'repo'}", scale=2, cache=cache).train) == 2
    write(tmp_path / "mine.png", picture(5))
    (tmp_path / "repo" / "3.png").symlink_to(tmp_path / "mine.png")
    assert "of this machine instead of holding a picture" in refusal(f"hub:{tmp_path / 'repo'}", cache)


@pytest.mark.usefixtures("hub_home")
def test_a_repository_without_pictures_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "train.csv").write_text("a,b\n1,2\n")
    assert "no image column among a, b" in refusal(f"hub:{tmp_path / 'repo'}", cache)


@pytest.mark.usefixtures("hub_home")
def test_a_repository_without_training_pictures_is_refused(tmp_path: Path, cache: Path) -> None:
    repository = write_repository(tmp_path / "repo", {"test": [png(picture(0))]})
    assert "no split train, only test" in refusal(f"hub:{repository}", cache)


@pytest.mark.usefixtures("hub_home")
def test_a_repository_that_cannot_be_reached_is_refused(cache: Path) -> None:
    message = refusal("hub:nobody/nothing-here", cache)
    assert message.startswith("hub:nobody/nothing-here: cannot be loaded (")
    assert "check its name and the network" in message


@pytest.mark.usefixtures("hub_home")
def test_a_repository_that_needs_a_script_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "repo.py").write_text("raise SystemExit\n")
    assert "script" in refusal(f"hub:{tmp_path / 'repo' / 'repo.py'}", cache)
