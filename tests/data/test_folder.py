"""Which pictures of a folder are used, and that none is passed over in silence. Nothing is decoded here."""

import os
from pathlib import Path

import pytest

from sesr_lab.data.dataset import open_source
from sesr_lab.data.folder import Location, pair_by_name, paired_rows, split_folder
from sesr_lab.errors import DataError


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(rows: list[Location]) -> list[str]:
    return [row.name for row in rows]


def refusal(root: Path, scale: int = 2) -> str:
    with pytest.raises(DataError) as caught:
        split_folder(root, scale=scale)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # can be printed and stored
    return str(caught.value)


# splits


@pytest.mark.parametrize("name", ["valid", "val", "validation", "test", "Val", "VALID"])
@pytest.mark.parametrize("train", ["train", "Train", "training"])
def test_the_usual_names_of_splits_are_understood(tmp_path: Path, train: str, name: str) -> None:
    found = split_folder(files(tmp_path, f"{train}/a.png", f"{train}/b.png", f"{name}/c.png"), scale=2)
    assert (names(found.train), names(found.valid)) == (["a.png", "b.png"], ["c.png"])


def test_a_validation_split_goes_before_a_test_split_as_on_the_hub(tmp_path: Path) -> None:
    assert names(split_folder(files(tmp_path, "train/a.png", "test/b.png", "val/c.png"), scale=2).valid) == ["c.png"]


@pytest.mark.parametrize(("one", "other"), [("val", "valid"), ("validation", "Valid")])
def test_two_validation_splits_are_refused(tmp_path: Path, one: str, other: str) -> None:
    message = refusal(files(tmp_path, "train/a.png", f"{one}/b.png", f"{other}/c.png"))
    assert f"{one}/" in message
    assert f"{other}/" in message
    assert "keep one of them" in message


def test_an_empty_validation_folder_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    assert len(split_folder(files(tmp_path, "train/a.png", "train/b.png"), scale=2).valid) == 1
    assert len(split_folder(files(tmp_path / "flat", "a.png", "b.png", "test/notes.txt"), scale=2).valid) == 1


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_pictures_to_score_on_without_a_train_folder_are_refused(tmp_path: Path, name: str) -> None:
    message = refusal(files(tmp_path, "a.png", "b.png", f"{name}/c.png"))
    assert f"{name}/ but no train/; put the pictures to train on into {tmp_path / 'train'}" in message


@pytest.mark.parametrize("beside", ["x.png", "HR/x.png"])
def test_pictures_beside_a_train_folder_are_refused(tmp_path: Path, beside: str) -> None:
    assert "pictures both in it and in train/" in refusal(files(tmp_path, "train/a.png", "train/b.png", beside))


def test_splits_may_have_high_and_low_resolution_of_their_own(tmp_path: Path) -> None:
    names = [f"{split}/{place}/{split}.png" for split in ("train", "val") for place in ("hr", "LRbicx2")]
    found = split_folder(files(tmp_path, *names), scale=2)
    assert [row.lr for row in found.train + found.valid] == [
        str(tmp_path / "train/LRbicx2/train.png"),
        str(tmp_path / "val/LRbicx2/val.png"),
    ]


# low resolution


@pytest.mark.parametrize(
    "place",
    [
        *("LR_x2", "LR_X2", "lr_x2", "LRx2", "LRX2", "LR2", "LR-x2", "LR_2x", "LR_bicubic_X2", "LRbicx2", "lrbicX2"),
        *("LR_bicubic/X2", "LR_bicubic/x2", "LR/x2", "lr/X2", "LR/2x", "LR_bic/2"),
    ],
)
def test_the_low_resolution_of_a_set_is_used_whatever_it_is_called(tmp_path: Path, place: str) -> None:
    rows = paired_rows(files(tmp_path, "HR/a.png", f"{place}/a.png"), scale=2)
    assert [row.lr for row in rows] == [str(tmp_path / place / "a.png")]
    assert [row.lr for row in paired_rows(tmp_path, scale=4)] == [None]


@pytest.mark.parametrize("place", ["LR", "LR_mild", "LR_unknown/X2", "LRblur", "lr_wild/x2", "LR_bicubic"])
def test_low_resolution_of_a_kind_or_scale_that_is_not_clear_is_refused(tmp_path: Path, place: str) -> None:
    message = refusal(files(tmp_path, "HR/a.png", "HR/b.png", f"{place}/a.png", f"{place}/b.png"))
    assert f"LR pictures in {place.partition('/')[0]}/" in message
    assert "call the one to use LR_x2/" in message


def test_of_two_low_resolutions_neither_is_guessed(tmp_path: Path) -> None:
    root = files(tmp_path, "HR/a.png", "LR_x2/a.png", "LR_bicubic/X2/a.png")
    with pytest.raises(DataError, match=r"LR_bicubic/X2/ and LR_x2/, not clear"):
        paired_rows(root, scale=2)
    files(tmp_path / "b", "HR/a.png", "LR_unknown/X2/a.png", "LR_bicubic/X2/a.png")
    assert paired_rows(tmp_path / "b", scale=2)[0].lr == str(tmp_path / "b/LR_bicubic/X2/a.png")


def test_low_resolution_without_high_resolution_is_refused(tmp_path: Path) -> None:
    assert "LR_X2/ but no HR/; put" in refusal(files(tmp_path, "a.png", "b.png", "LR_X2/a.png", "LR_X2/b.png"))


def test_pictures_beside_high_resolution_are_refused(tmp_path: Path) -> None:
    assert "pictures both in it and in HR/" in refusal(files(tmp_path, "a.png", "HR/a.png", "HR/b.png"))


def test_folders_that_have_nothing_to_do_with_it_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = files(tmp_path, "a.png", "b.png", "lroom/c.txt", ".val/e.png", "logs/x.txt")
    with caplog.at_level("WARNING"):
        found = split_folder(root, scale=2)
    assert sorted(names(found.train + found.valid)) == ["a.png", "b.png"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    "used",
    [
        ("a.png", "b.png"),
        ("HR/a.png", "HR/b.png"),
        ("HR/a.png", "HR/b.png", "LR_x2/a.png", "LR_x2/b.png", "LR_x4/a.png"),
        ("HR/a.png", "HR/b.png", "LR_bicubic/X2/a.png", "LR_bicubic/X2/b.png"),
        ("train/a.png", "train/b.png", "valid/c.png"),
        ("train/a.png", "train/b.png"),
    ],
)
def test_pictures_beside_those_that_are_used_are_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, used: tuple[str, ...]
) -> None:
    split_folder(files(tmp_path, *used, "more/c.png"), scale=2)
    (said,) = caplog.messages
    assert said == f"{tmp_path}: the pictures in more/ are not used"


# pairs


def pairs(high: list[str], low: list[str], scale: int = 2) -> list[str]:
    return pair_by_name(high, {name: name for name in low}, scale=scale, where="LR_x2")


def test_an_exact_name_goes_before_a_guessed_one() -> None:
    assert pairs(["a.png", "ax2.png"], ["ax2.png", "a.png"]) == ["a.png", "ax2.png"]
    assert pairs(["a.png", "ax2.png"], ["a.png", "ax2x2.png"][::-1]) == ["a.png", "ax2x2.png"]


def test_a_low_resolution_picture_that_is_anothers_is_not_taken() -> None:
    with pytest.raises(DataError, match=r"no LR picture for a; one is needed: a\.png"):
        pairs(["a.png", "ax2.png"], ["ax2.png", "b.png"])


def test_two_high_resolution_pictures_never_share_one() -> None:
    with pytest.raises(DataError, match=r"LR_x2: a\.jpg and a\.png would share one LR picture"):
        pairs(["a.jpg", "a.png"], ["a.png"])
    with pytest.raises(DataError, match=r"would share one"):
        pairs(["caf\u00e9.png", "cafe\u0301.png"], ["caf\u00e9.png"])


def test_names_match_however_unicode_writes_them_and_whatever_their_suffix() -> None:
    assert pairs(["caf\u00e9.png", "b.png"], ["cafe\u0301x2.png", "bX2.jpg"]) == ["cafe\u0301x2.png", "bX2.jpg"]


# names and places


def test_a_name_that_is_not_utf_8_is_refused_in_words_that_can_be_printed(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png")
    os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/caf\xe9.png")  # noqa: PTH104 (bytes)
    assert "caf\\xe9.png: this name is not UTF-8; rename it" in refusal(tmp_path)


@pytest.mark.parametrize("inside", ["", "train", "HR"])
def test_a_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path, inside: str) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xfcro"))
    files(odd / inside, "a.png", "b.png")
    assert "b\\xfcro" in refusal(odd)
    with pytest.raises(DataError, match="not UTF-8"):
        paired_rows(odd / inside, scale=2)


@pytest.mark.parametrize("place", ["my set", "a#b", "100%", "%41", "a?b", "zip:x", "a::b", "カメラ", "x/"])
def test_a_folder_may_be_called_anything(tmp_path: Path, place: str) -> None:
    files(tmp_path / place, "a #1%.png", "b::c.png")
    splits = open_source(f"folder:{tmp_path}/{place}", scale=2, cache=tmp_path / "cache")
    assert {row["name"] for split in splits.values() for row in split} == {"a #1%.png", "b::c.png"}
    assert all(Path(row["hr"]["path"]).is_file() for split in splits.values() for row in split)


def test_a_home_folder_is_understood_and_that_of_nobody_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    files(tmp_path / "set", "a.png", "b.png")
    assert open_source("folder:~/set", scale=2, cache=tmp_path / "cache").num_rows == {"train": 1, "valid": 1}
    with pytest.raises(DataError, match="no home folder is known for ~"):
        open_source("folder:~nobody-of-that-name/set", scale=2, cache=tmp_path / "cache")


def test_a_broken_link_and_a_device_are_named(tmp_path: Path) -> None:
    files(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "gone.png")
    assert "c.png: not a file, or a link to none; put it back or remove it" in refusal(tmp_path)
    (tmp_path / "c.png").unlink()
    (tmp_path / "c.png").symlink_to("/dev/zero")
    assert "c.png: not a file" in refusal(tmp_path)
    (tmp_path / "c.png").unlink()
    os.mkfifo(tmp_path / "c.png")
    assert "c.png: not a file" in refusal(tmp_path)
