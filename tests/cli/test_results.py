"""`sesr-lab upscale`: what a user types, and what comes back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
import torch
from labs import photographs
from PIL import Image, ImageCms
from safetensors.torch import save_file
from typed import Typed

from sesr_lab.data.image import downscale
from sesr_lab.data.refusal import MAX_PIXELS
from sesr_lab.network.model import SESR
from sesr_lab.registry.lookup import of_file
from sesr_lab.results import comparing
from sesr_lab.results.decoding import Picture
from sesr_lab.results.inference import of_named
from sesr_lab.scores.evaluate import benchmark, score_sample
from sesr_lab.tracking.runs import open_store

pytestmark = pytest.mark.slow

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[80:131, 120:187])


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[str]:
    """A file of weights, in a folder of its own."""
    torch.manual_seed(0)
    network = SESR(m=1, f=4, feature_size=8, scale=2)
    with torch.no_grad():
        network.tail.project.mul_(0.1)
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "tiny.safetensors"
    save_file(network.state_dict(), path)
    yield str(path)
    assert not (tmp_path / "mlflow.db").exists()  # a file needs no store


def photo(path: Path, picture: np.ndarray = PHOTO, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def errors(typed: Typed) -> list[str]:
    lines = [line for line in typed.err.splitlines() if line]
    assert all(line.startswith("error: ") for line in lines), typed.err
    return [line.removeprefix("error: ") for line in lines]


def test_a_folder_becomes_a_folder(typed: Typed, model: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG", "c.webp", "d.tif", "e.bmp", "f.gif"):
        photo(tmp_path / "in" / name)
    found = typed.json("upscale", "in", "--model", model, "-o", "out/deep")
    assert sorted(path.name for path in Path("out/deep").iterdir()) == [
        "a.png", "b.JPG", "c.webp", "d.tif", "e.png", "f.png",
    ]  # fmt: skip
    assert {size(path) for path in Path("out/deep").iterdir()} == {(134, 102)}
    assert found["scale"] == 2
    assert found["failed"] == []
    assert found["written"][0]["input"] == "in/a.png"
    assert typed("upscale", "in", "--model", model, "-o", "out") == 0
    assert typed.out == "6 of 6 pictures upscaled x2 to out\n"


def test_one_picture_becomes_the_file_that_is_named(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert typed("upscale", "a.png", "--model", model, "-o", "new/b.jpg") == 0
    assert size(Path("new/b.jpg")) == (134, 102)
    assert typed("upscale", "a.png", "--model", model, "-o", "folder", "--format", "tiff") == 0
    assert size(Path("folder/a.tif")) == (134, 102)


def test_tile_and_format_change_no_sample(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    made = []
    for index, options in enumerate((("--tile", 0), ("--tile", 16), ("--tile", 33, "--format", "tiff"))):
        assert typed("upscale", "a.png", "--model", model, "-o", f"{index}", *options) == 0
        made.append(np.asarray(Image.open(next(Path(f"{index}").iterdir()))))
    assert all((other == made[0]).all() for other in made)


def test_alpha_16_bits_orientation_and_profile_are_kept(typed: Typed, model: str, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "in" / "a.png", np.dstack([PHOTO, PHOTO[..., 0]]), icc_profile=profile, exif=exif)
    photo(tmp_path / "in" / "b.jpg", icc_profile=profile, exif=exif)
    photo(tmp_path / "in" / "c.png", PHOTO[..., 0].astype(np.uint16) * 257)
    assert typed("upscale", "in", "--model", model, "-o", "out") == 0
    for name, mode in (("a.png", "RGBA"), ("b.jpg", "RGB")):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.mode, image.size) == (mode, (134, 102))
            assert image.info["icc_profile"] == profile
            assert image.getexif()[0x0112] == 6
    with Image.open(tmp_path / "out" / "c.png") as image:
        assert image.mode == "I;16"


def test_bad_pictures_are_a_line_each_and_the_others_are_done(typed: Typed, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    whole = photo(folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").touch()
    photo(folder / "moving.gif", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])])
    photo(folder / "turning.webp", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])])
    photo(folder / "one.png", PHOTO[:1, :1])
    Image.fromarray(PHOTO).convert("CMYK").save(folder / "cmyk.jpg")
    Image.new("1", (20_000, MAX_PIXELS // 20_000 + 1)).save(folder / "bomb.png")
    photo(folder / "see-through.jpeg.png", np.dstack([PHOTO, PHOTO[..., 0]]))
    (folder / "notes.txt").write_text("not even asked about")
    assert typed("upscale", folder, "nosuch.png", "--model", model, "-o", "out", "--format", "jpeg") == 1
    said = errors(typed)
    bad = ["bomb", "cmyk", "cut", "empty", "moving", "one", "see-through", "text", "turning"]
    assert [Path(line.split(":")[0]).name.split(".")[0] for line in said] == [*bad, "nosuch"]
    assert typed.out == "1 of 11 pictures upscaled x2 to out; 10 failed, as said above\n"
    assert [path.name for path in Path("out").iterdir()] == ["whole.jpg"]


def test_names_may_be_anything(typed: Typed, model: str, tmp_path: Path) -> None:
    names = [
        b"with space.png",
        "Größe 写真.png".encode(),
        b"-dash.png",
        b"--model.png",
        b"not\xffutf8.png",
        b"a\nb.png",
    ]
    picture = photo(tmp_path / "a.png").read_bytes()
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(picture)
    assert typed("upscale", "in", "--model", model, "-o", "out") == 0, typed.err
    assert sorted(os.fsencode(path.name) for path in Path("out").iterdir()) == sorted(names)
    (tmp_path / "in" / os.fsdecode(b"bad\xff.png")).write_text("no picture")
    found = typed("upscale", "in", "--model", model, "-o", "out", "--json")
    assert found == 1
    assert errors(typed) == [r"in/bad\xff.png: not a picture; allowed are PNG, JPEG, WebP, TIFF, BMP and GIF; "
                             "replace it or leave it out"]  # fmt: skip
    photo(tmp_path / "-x.png")
    assert typed("upscale", "--model", model, "-o", "out2", "--", "-x.png") == 0


def test_nothing_is_written_twice_or_over_an_input(typed: Typed, model: str, tmp_path: Path) -> None:
    before = {name: photo(tmp_path / "in" / name).read_bytes() for name in ("a.png", "a.bmp", "b.png")}
    photo(tmp_path / "other" / "b.png")
    assert typed("upscale", "in", "other/b.png", "--model", model, "-o", "out") == 1
    assert len(errors(typed)) == 4  # a.png and a.bmp, b.png and b.png
    assert all("too; rename one" in line for line in errors(typed))
    for words in (
        ("in", "-o", "in"),
        ("in", "-o", "in/../in/"),
        ("in/b.png", "-o", "in"),
        ("in/b.png", "-o", "in/b.png"),
    ):
        assert typed("upscale", *words, "--model", model) == 1
        assert len(errors(typed)) == 1
        assert "choose another -o" in typed.err
    (tmp_path / "link").symlink_to("in")
    assert typed("upscale", "in", "--model", model, "-o", "link") == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    assert typed("upscale", "in/b.png", "in/b.png", "./in/b.png", "--model", model, "-o", "out") == 0  # one picture


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a.png", "-o", "out.gif"), "out.gif: .gif cannot be written; allowed are .png, "),
        (("a.png", "a.png/..", "-o", "out.png"), "out.png: one file for several pictures; give a folder as -o"),
        (("a.png", "-o", "a.png/out"), "a.png/out: cannot be made (Not a directory); choose another -o"),
        (("a.png", "-o", "/proc/nope/out"), "/proc/nope/out: cannot be made (No such file or directory)"),
        (("a.png", "-o", "out", "--format", "bmp"), "upscale: --format: found 'bmp'; allowed are png, jpeg"),
        (("a.png", "-o", "out.png", "--format", "tiff"), "out.png: its name says .png, --format says tif; give one"),
        (("a.png", "-o", "out", "--scale", 3), "upscale: scale: found 3; 2 or 4 is allowed"),
        (("a.png", "-o", "out", "--tile", 8), "upscale: --tile: found 8; allowed are 0 and 16 or more"),
    ],
)
def test_a_wrong_option_is_one_line(
    typed: Typed, model: str, tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    photo(tmp_path / "a.png")
    assert typed.error("upscale", *words, "--model", model).startswith(says)
    assert not Path("out").exists()


def test_a_model_of_the_wrong_scale_is_one_line(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    line = typed.error("upscale", "a.png", "--model", model, "-o", "out", "--scale", 4)
    assert line == f"{model}: its scale is 2, not 4; leave --scale out, or match it"


def test_a_folder_that_cannot_be_used_is_one_line(typed: Typed, model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    photo(tmp_path / "a.png")
    assert typed("upscale", "empty", "a.png", "--model", model, "-o", "out") == 1
    assert errors(typed) == ["empty: no pictures in this folder; put some in it (.png, .jpg, .jpeg, .bmp, .tif, "
                             ".tiff, .webp, .gif)"]  # fmt: skip
    assert size(Path("out/a.png")) == (134, 102)


def test_what_jpeg_and_webp_cannot_hold_is_said(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", np.zeros((8, 8200, 3), np.uint8))
    line = "a.png: 16400x16 pixels are too many for WebP, which holds 16383 a side; write PNG or TIFF (--format png)"
    assert typed("upscale", "a.png", "--model", model, "-o", "out", "--format", "webp") == 1
    assert errors(typed) == [line]
    opaque = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    photo(tmp_path / "b.png", opaque)
    assert typed("upscale", "b.png", "--model", model, "-o", "out", "--format", "jpeg") == 0


def test_compare_writes_a_sheet_with_the_original(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "hr" / "a.jpg", PHOTO.repeat(2, axis=0).repeat(2, axis=1))
    (found,) = typed.json("upscale", "in", "--model", model, "-o", "out", "--compare")["written"]
    assert found["sheet"] == "out/a-compare.png"
    two = size(Path("out/a-compare.png"))
    (found,) = typed.json("upscale", "in", "--model", model, "-o", "out", "--original", "hr")["written"]
    three = size(Path("out/a-compare.png"))
    assert three[0] > 1.4 * two[0]
    assert typed("upscale", "in", "--model", model, "-o", "out", "--original", "in") == 1
    assert errors(typed)[0].startswith("in/a.png: ")


def test_a_sheet_says_of_a_grey_picture_what_evaluate_says(model: str, tmp_path: Path) -> None:
    grey = np.ascontiguousarray(skimage.data.camera()[100:200, 200:340])
    set_ = tmp_path / "set"
    photo(set_ / "HR" / "a.png", grey)
    photo(set_ / "LR_x2" / "a.png", lr := downscale(grey, 2))
    (score,) = benchmark(set_, 2)
    bicubic = score_sample(score, "bicubic", scale=2).psnr
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparing, "contact_sheet", lambda rows: notes.extend(cell.note for cell in rows[0]))
        comparing.sheet(Picture(lr[..., None]), of_named(of_file(model)), original=Picture(grey[..., None]))
    assert float(notes[0].removesuffix(" dB")) == pytest.approx(bicubic, abs=0.05)


def test_no_original_and_no_other_picture_is_written_over(typed: Typed, model: str, tmp_path: Path) -> None:
    large = PHOTO.repeat(2, axis=0).repeat(2, axis=1)
    photo(tmp_path / "lr" / "a.png")
    photo(tmp_path / "hr" / "a.png", large)
    photo(tmp_path / "two" / "a.png")
    photo(tmp_path / "two" / "a.jpg")
    photo(tmp_path / "named" / "a.png")
    photo(tmp_path / "named" / "a-compare.png")
    before = (tmp_path / "hr" / "a.png").read_bytes()
    for words in (("-o", "hr"), ("-o", "hr/a.png")):
        assert typed("upscale", "lr/a.png", "--model", model, *words, "--original", "hr") == 1
        assert errors(typed) == ["lr/a.png: would be written over the original hr/a.png; choose another -o"]
    assert (tmp_path / "hr" / "a.png").read_bytes() == before
    for folder in ("two", "named"):
        assert typed("upscale", folder, "--model", model, "-o", "out", "--compare") == 1
        assert len(errors(typed)) == 2
        assert all("out/a-compare.png too; rename one" in line for line in errors(typed))
        assert typed("upscale", folder, "--model", model, "-o", "out") == 0
    assert typed("upscale", "named/a.png", "--model", model, "-o", "named/b.png", "--compare") == 0
    (tmp_path / "named" / "b-compare.png").unlink()
    words = ("named/a.png", "named/a-compare.png", "-o", "out2", "--compare")
    assert typed("upscale", *words, "--model", model) == 1


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_exif_that_a_jpeg_cannot_hold_costs_no_picture(typed: Typed, model: str, tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 70_000  # a description
    photo(tmp_path / "in" / f"a{suffix}", exif=exif)
    photo(tmp_path / "in" / "b.png")
    assert typed("upscale", "in", "--model", model, "-o", "out", "--format", "jpeg") == 0
    with Image.open("out/a.jpg") as image:
        assert image.getexif()[0x0112] == 6
    assert size(Path("out/b.jpg")) == (134, 102)


def test_names_that_are_too_long_are_a_line_each(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    assert typed("upscale", "x" * 300 + ".png", "a.png", "--model", model, "-o", "out") == 1
    assert len(errors(typed)) == 1
    assert Path("out/a.png").exists()
    assert typed("upscale", "a.png", "--model", "x" * 300 + ".safetensors", "-o", "out") == 1
    assert len(errors(typed)) == 1


def test_weights_that_are_no_numbers_are_refused(typed: Typed, model: str, tmp_path: Path) -> None:
    broken = SESR(m=1, f=4, feature_size=8, scale=2)
    with torch.no_grad():
        broken.tail.project[0, 0, 0] = float("nan")
    save_file(broken.state_dict(), tmp_path / "broken.safetensors")
    photo(tmp_path / "a.png")
    for words in (("upscale", "a.png", "-o", "out", "--model"), ("evaluate", "--benchmark", ".", "--scale", 2)):
        line = typed.error(*words, "broken.safetensors")
        assert line.endswith("broken.safetensors: tail.project holds what is no number (NaN or infinity); train the "
                             "network again")  # fmt: skip


def test_a_full_disk_leaves_no_part_of_a_file(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "from sesr_lab.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    words = ["upscale", "a.png", "--model", model, "-o", "out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == "error: a.png: out/a.png: cannot be written (File too large); choose another -o\n"
    assert list(Path("out").iterdir()) == []


@pytest.mark.long
def test_100_megapixels_take_less_than_2_gb(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.tile(skimage.data.astronaut(), (20, 20, 1))[:10_000, :10_000]
    photo(tmp_path / "large.png", whole)
    code = (
        "import sys; from pathlib import Path; from sesr_lab.cli.app import run; status = run(sys.argv[1:]);"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]); sys.exit(status)"
    )
    words = ["upscale", "large.png", "--model", model, "-o", "out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) * 1024 < 2e9
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(tmp_path / "out" / "large.png") as image:
        assert image.size == (20_000, 20_000)


# export


def test_export_writes_a_file_that_upscales_like_the_network(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    found = typed.json("export", model, "-o", "new/a.onnx")
    assert found["bytes"] == Path("new/a.onnx").stat().st_size
    assert (found["scale"], found["colours"], found["int8"], found["losses"]) == (2, 1, False, [])
    assert found["max_error"] < 1e-5
    assert (found["run_id"], found["artifact"]) == (None, None)
    for name, network in (("x.png", model), ("y.png", "new/a.onnx")):
        assert typed("upscale", "a.png", "--model", network, "-o", name, "--tile", 16) == 0
    x, y = (np.asarray(Image.open(name)).astype(int) for name in ("x.png", "y.png"))
    assert np.abs(x - y).max() <= 1  # two libraries, and a value next to a half
    assert (x != y).mean() < 1e-3


def test_export_in_int8_says_what_it_costs(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "set" / "a.png")
    (loss,) = typed.json("export", model, "-o", "a.onnx", "--int8", "--rgb", "--benchmark", "set")["losses"]
    assert loss["set"] == "set"
    assert loss["loss_db"] == loss["float_db"] - loss["int8_db"]
    assert typed("export", model, "-o", "a.onnx", "--int8", "--benchmark", "set") == 0
    for words in ("a.onnx: ", " kB", f"{loss['float_8bit_db']:.3f}", "input: float32 (N, 1, H, W), luma / 255"):
        assert words in typed.out


def test_export_to_tflite_is_for_one_size_and_says_what_int8_costs(typed: Typed, model: str, tmp_path: Path) -> None:
    photo(tmp_path / "set" / "a.png")
    words = ("export", model, "-o", "a", "--format", "tflite", "--int8", "--input", "48x32", "--benchmark", "set")
    found = typed.json(*words)
    assert found["file"].endswith("a.tflite")
    assert found["bytes"] == Path("a.tflite").stat().st_size
    assert (found["int8"], found["input"], found["max_error"]) == (True, "48x32", None)
    assert found["losses"][0]["set"] == "set"
    assert typed(*words) == 0
    for text in ("a.tflite: ", " kB", "input: int8 (1, 32, 48, 1), luma"):
        assert text in typed.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-o", "a.pt"), "a.pt: found the suffix '.pt'; .onnx or .tflite is allowed"),
        (("-o", "a.tflite"), "a.tflite: a TFLite file is written in int8 alone; add --int8"),
        (("-o", "a.tflite", "--int8", "--rgb"), "a.tflite: a TFLite file takes and gives luma alone; leave --rgb out"),
        (("-o", "a.tflite", "--int8", "--input", "0x3"), "export: --input: '0x3' is no size of a picture"),
        (("-o", "a.onnx", "--input", "4x3"), "a.onnx: an ONNX file takes pictures of any size; leave --input out"),
        (("-o", "a.onnx", "--format", "tflite"), "export: --format: found tflite and the name a.onnx; let them say"),
        (("-o", "a", "--format", "pt"), "export: --format: 'pt' is unknown; allowed: onnx, tflite"),
        (("-o", "x/../folder.onnx"), "x/../folder.onnx: cannot be written (Is a directory); choose another -o"),
        (("-o", "/proc/nope/a.onnx"), "/proc/nope/a.onnx: cannot be written (No such file or directory)"),
        (("-o", "a.onnx", "--benchmark", "set"), "export: --benchmark measures what int8 loses; add --int8"),
        (("-o", "a.onnx", "--int8", "--benchmark", "nosuch"), "nosuch: no such folder"),
        (("-o", "a.onnx", "--int8", "--calibrate", "nosuch"), "--data nosuch: no such source"),
        (("-o", "a.onnx", "--scale", 4), "its scale is 2, not 4"),
    ],
)
def test_an_export_that_cannot_be_is_one_line(
    typed: Typed, model: str, tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "x").mkdir()
    assert says in typed.error("export", model, *words)
    assert not Path("a.onnx").exists()


def test_what_is_no_exported_file_is_one_line(typed: Typed, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "text.onnx").write_text("no network")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        *([onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])] for name in "xy"),
    )
    onnx.save(onnx.helper.make_model(graph, ir_version=8), tmp_path / "other.onnx")
    for name, says in (
        ("nosuch.onnx", "nosuch.onnx: there is no such file"),
        ("text.onnx", "text.onnx: not a network that ONNX Runtime can read ("),
        ("other.onnx", "other.onnx: not exported by sesr-lab"),
    ):
        assert typed.error("upscale", "a.png", "--model", name, "-o", "out").startswith(says)


def test_an_exported_file_is_kept_with_the_run_that_trained_it(typed: Typed, tmp_path: Path) -> None:
    small = ("--m", 1, "--f", 4, "--feature-size", 8, "--steps", 5, "--patch", 32, "--batch-size", 2)
    trained = typed.json("train", *small, "--data", photographs(tmp_path / "data"), "--device", "cpu")
    found = typed.json("export", trained["uri"], "-o", "a.onnx")
    assert (found["run_id"], found["artifact"]) == (trained["run_id"], "export/a.onnx")
    tracker = open_store()
    (kept,) = tracker.client.list_artifacts(trained["run_id"], "export")
    assert (kept.path, kept.file_size) == ("export/a.onnx", found["bytes"])
    assert tracker.run(trained["run_id"]).status == "FINISHED"
    facts = onnx.load("a.onnx").metadata_props
    assert {"sesr.model", "sesr.run_id", "sesr.scores"} <= {entry.key for entry in facts}
    photo(tmp_path / "a.png")
    assert typed("upscale", "a.png", "--model", trained["uri"], "-o", "b.png") == 0
