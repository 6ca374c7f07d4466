"""`sesr-lab evaluate`: scores that others can check, as a table, as Markdown, as JSON, and kept with the run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from labs import lab, photographs, storage
from labs import study as tiny
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from typed import Typed

from sesr_lab.data.image import downscale
from sesr_lab.network.model import SESR
from sesr_lab.results.score_log import key_of
from sesr_lab.sweep.driver import sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


def weights(path: Path, scale: int = 2, *, activation: str = "prelu", input_residual: bool = True) -> Path:
    torch.manual_seed(3)
    made = SESR(m=3, f=8, feature_size=12, scale=scale, activation=activation, input_residual=input_residual)  # type: ignore[arg-type]
    with torch.no_grad():
        made.tail.project.mul_(0.1)
        if activation == "prelu":
            made.slopes.uniform_(-0.2, 0.4)
    save_file(made.state_dict(), path)
    return path


def pictures(folder: Path, scale: int = 2, *, given: bool = True) -> Path:
    """A set of three, one of them grey, with LR that is not MATLAB's bicubic where it is given."""
    hr, lr = folder / "HR", folder / f"LR_x{scale}"
    hr.mkdir(parents=True)
    crops = {"a": skimage.data.chelsea()[:96, :120], "b": skimage.data.coffee()[40:136, 60:160]}
    crops["c"] = skimage.data.coins()[:88, :104]
    for name, crop in crops.items():
        Image.fromarray(np.ascontiguousarray(crop)).save(hr / f"{name}.png")
        if given:
            lr.mkdir(exist_ok=True)
            small = Image.fromarray(crop).resize((crop.shape[1] // scale, crop.shape[0] // scale), Image.Resampling.BOX)
            small.save(lr / f"{name}x{scale}.png")
    return folder


def read_luma(path: Path) -> NDArray[np.float64]:
    picture = np.asarray(Image.open(path)).astype(np.float64)
    grey = picture if picture.ndim == 2 else None
    return grey if grey is not None else 16 + picture @ np.array([65.481, 128.553, 24.966]) / 255


def script(file: Path, hr: Path, lr: Path, scale: int) -> float:
    """PSNR by the expanded weights, each convolution as sums over shifted pictures, in float64."""
    w = {name: tensor.double().numpy() for name, tensor in load_file(file).items()}

    def convolved(x: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        reach, (height, width) = kernel.shape[-1] // 2, x.shape[1:]
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
        shifts = [(i, j) for i in range(2 * reach + 1) for j in range(2 * reach + 1)]
        return sum(
            np.einsum("oi,ihw->ohw", kernel[:, :, i, j], padded[:, i : i + height, j : j + width]) for i, j in shifts
        )

    def block(x: NDArray[np.float64], name: str, index: int) -> NDArray[np.float64]:
        wide = convolved(x, w[f"{name}.expand"][index])
        return np.einsum("op,phw->ohw", w[f"{name}.project"][index], wide)

    x = read_luma(lr)[None] / 255
    features = skip = block(x - 0.5, "head", 0)
    for index in range(len(w["body.expand"])):
        features = block(features, "body", index) + features
        features = np.where(features > 0, features, w["slopes"][index][:, None, None] * features)
    subpixels = block(features + skip, "tail", 0) + x
    height, width = x.shape[1:]
    made = subpixels.reshape(scale, scale, height, width).transpose(2, 0, 3, 1).reshape(scale * height, scale * width)
    levels = np.floor(np.clip(made, 0, 1) * 255 + 0.5)
    error = (levels - read_luma(hr))[scale:-scale, scale:-scale]
    return 10 * math.log10(255**2 / np.mean(error**2))


@pytest.mark.parametrize("scale", [2, 4])
def test_a_script_of_a_few_lines_finds_the_same_psnr(typed: Typed, tmp_path: Path, scale: int) -> None:
    file, folder = weights(tmp_path / "tiny.safetensors", scale), pictures(tmp_path / "set", scale)
    (found,) = typed.json("evaluate", file, "--benchmark", folder, "--scale", scale)["models"]
    (measured,) = found["sets"]
    assert measured["lr_origin"] == "paired"
    expected = [
        script(file, folder / "HR" / f"{name}.png", folder / f"LR_x{scale}" / f"{name}x{scale}.png", scale)
        for name in "abc"
    ]
    assert [picture["psnr"] for picture in measured["pictures"]] == pytest.approx(expected, abs=1e-6)
    assert measured["psnr"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert not Path("mlflow.db").exists()  # a file needs no store


def test_the_table_and_the_json_say_which_lr_was_used(typed: Typed, tmp_path: Path) -> None:
    given, made = pictures(tmp_path / "given"), pictures(tmp_path / "made", given=False)
    assert typed("evaluate", "bicubic", "--benchmark", given) == 0
    assert "LR: given" in typed.out
    assert typed("evaluate", "bicubic", "--benchmark", given, "--benchmark", made) == 0
    assert "LR: given given, made bicubic" in typed.out
    found = typed.json("evaluate", "bicubic", "--benchmark", given, "--benchmark", made)
    assert [item["lr_origin"] for item in found["models"][0]["sets"]] == ["paired", "bicubic"]


def test_markdown_is_a_table_like_the_papers(typed: Typed, tmp_path: Path) -> None:
    file, folder = weights(tmp_path / "a|b.safetensors"), pictures(tmp_path / "Set14", given=False)
    assert typed("evaluate", file, "bicubic", "--benchmark", folder, "--markdown", "--paper") == 0
    table, _, note = typed.out.partition("\n\n")
    lines = table.splitlines()
    assert lines[0] == "| model | weights | MACs | Set14 |"
    assert lines[1] == "|---|--:|--:|--:|"
    assert lines[2].startswith(f"| {tmp_path}/a\\|b.safetensors | 2.73K | 0.63G | ")
    assert lines[3].startswith("| bicubic |  |  | ")
    assert lines[5] == "| SESR-M5, paper | 13.52K | 3.12G | 32.84 / 0.9115 |"
    assert len(lines) == 4 + 5
    assert "LR: bicubic. The paper's rows: tables 1 and 2 of arXiv 2103.09404" in note


@pytest.mark.parametrize(
    ("folder", "scale", "m3", "xl"),
    [
        ("Set5", 2, "37.21 / 0.9577", "37.77 / 0.9601"),
        ("B100", 4, "27.00 / 0.7166", "27.31 / 0.7277"),
        ("urban100", 2, "29.92 / 0.9034", "31.16 / 0.9184"),
        ("Manga109", 4, "27.90 / 0.8644", "29.04 / 0.8901"),
        ("DIV2K_valid_HR", 2, "35.03 / 0.9373", "35.67 / 0.9420"),
        ("mine", 4, "", ""),
    ],
)
def test_the_papers_rows_are_there_for_its_sets_at_both_scales(
    typed: Typed, tmp_path: Path, folder: str, scale: int, m3: str, xl: str
) -> None:
    sets = [pictures(tmp_path / name, given=False) for name in (folder, "Set14")]
    words = [word for each in sets for word in ("--benchmark", each)]
    assert typed("evaluate", "bicubic", *words, "--scale", scale, "--markdown", "--paper") == 0
    rows = {line.split(" | ")[0]: [cell.strip(" |") for cell in line.split(" | ")] for line in typed.out.splitlines()}
    assert rows["| SESR-M3, paper"][3] == m3
    assert rows["| SESR-XL, paper"][3] == xl
    assert rows["| SESR-XL, paper"][4] == {2: "33.24 / 0.9145", 4: "28.12 / 0.7712"}[scale]


def test_a_set_that_the_paper_has_not_scored_is_one_line(typed: Typed, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "mine", given=False)
    line = typed.error("evaluate", "bicubic", "--benchmark", folder, "--paper")
    assert line == (
        "evaluate: --paper: the paper has scores on Set5, Set14, BSD100, Urban100, Manga109 and DIV2K, by which a "
        "folder must be called; found mine; rename it, or leave --paper out"
    )
    line = typed.error("evaluate", "bicubic", "--benchmark", folder, "--markdown", "--json")
    assert line == "evaluate: --markdown: --json has another form; leave one out"


@pytest.mark.parametrize("scale", [2, 4])
def test_an_exported_file_scores_what_its_network_scores(typed: Typed, tmp_path: Path, scale: int) -> None:
    file, folder = weights(tmp_path / "tiny.safetensors", scale), pictures(tmp_path / "set", scale)
    assert typed("export", file, "-o", "tiny.onnx") == 0, typed.err
    found = typed.json("evaluate", file, "tiny.onnx", "--benchmark", folder, "--scale", scale)["models"]
    network, exported = found
    assert (network["params"], network["macs_720p"]) == (exported["params"], exported["macs_720p"])
    # A sum in another order may round a pixel to the next level: 1e-4 dB is a handful of such pixels.
    assert exported["sets"][0]["psnr"] == pytest.approx(network["sets"][0]["psnr"], abs=1e-4)
    assert not Path("mlflow.db").exists()
    line = typed.error("evaluate", "tiny.onnx", "--benchmark", folder, "--scale", 6 - scale)
    assert line.startswith(f"tiny.onnx: its scale is {scale}, not {6 - scale}; ")


def test_an_exported_file_of_rgb_is_scored_on_the_luma_of_its_picture(typed: Typed, tmp_path: Path) -> None:
    file, folder = weights(tmp_path / "tiny.safetensors"), pictures(tmp_path / "set")
    assert typed("export", file, "-o", "rgb.ONNX", "--rgb") == 0, typed.err
    network, exported = typed.json("evaluate", file, "rgb.ONNX", "--benchmark", folder)["models"]
    pairs = zip(exported["sets"][0]["pictures"], network["sets"][0]["pictures"], strict=True)
    assert all(abs(a["psnr"] - b["psnr"]) < 0.3 for a, b in list(pairs)[:2])  # RGB is rounded, not luma


@pytest.mark.parametrize("size", ["40x36", "640x360"])
def test_a_tflite_file_scores_what_was_measured_when_it_was_exported(typed: Typed, tmp_path: Path, size: str) -> None:
    file, folder = weights(tmp_path / "tiny.safetensors"), pictures(tmp_path / "set", given=False)
    words = ("export", file, "-o", "tiny.tflite", "--int8", "--input", size, "--benchmark", folder)
    (measured,) = typed.json(*words)["losses"]
    (exported,) = typed.json("evaluate", "tiny.tflite", "--benchmark", folder)["models"]
    assert exported["sets"][0]["psnr"] == pytest.approx(measured["int8_db"], abs=1e-9)
    assert typed("upscale", folder / "HR", "--model", "tiny.tflite", "-o", "tiled", "--tile", 32) == 0, typed.err
    assert typed("upscale", folder / "HR", "--model", "tiny.tflite", "-o", "whole", "--tile", 0) == 0, typed.err
    for name in ("a.png", "b.png", "c.png"):
        np.testing.assert_array_equal(Image.open(Path("tiled") / name), Image.open(Path("whole") / name))
    line = typed.error("evaluate", "tiny.tflite", "--benchmark", folder, "--scale", 4)
    assert line.startswith("tiny.tflite: its scale is 2, not 4; ")


def test_files_that_are_no_networks_are_one_line(typed: Typed, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    Path("broken.onnx").write_bytes(b"no network")
    assert typed.error("evaluate", "broken.onnx", "--benchmark", folder).startswith("broken.onnx: not a network that ")
    assert typed.error("evaluate", "none.onnx", "--benchmark", folder) == "none.onnx: there is no such file"
    Path("broken.tflite").write_bytes(b"no network")
    says = "broken.tflite: not a TFLite file; export it again"
    assert typed.error("evaluate", "broken.tflite", "--benchmark", folder) == says
    says = "none.tflite: cannot be read (No such file or directory); give a file that is there"
    assert typed.error("upscale", folder, "--model", "none.tflite", "-o", "out") == says


def test_scores_and_worst_pictures_are_kept_with_the_run(typed: Typed, tmp_path: Path) -> None:
    there, _ = lab(tmp_path)
    best = sweep(tiny(photographs(tmp_path / "photos"), trials=1), there, storage(tmp_path)).best
    assert best is not None
    folder = pictures(tmp_path / "My Sêt")
    found = typed.json("evaluate", best.model, "bicubic", "--benchmark", folder, "--log")
    client = there.tracker.client
    run = client.get_run(best.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/My-S-t/psnr"] == pytest.approx(found["models"][0]["sets"][0]["psnr"], abs=1e-4)
    local = Path(client.download_artifacts(best.run_id, "evaluation", str(tmp_path)))
    assert sorted(path.name for path in local.iterdir()) == ["My-S-t-worst.png", "My-S-t.json"]
    kept = json.loads((local / "My-S-t.json").read_text())
    assert kept["sets"] == found["models"][0]["sets"]
    with Image.open(local / "My-S-t-worst.png") as image:
        assert image.height > 3 * 256  # three pictures, one below the other
    line = typed.error("evaluate", "bicubic", "--benchmark", folder, "--log")
    assert line == "evaluate: --log: scores are kept with the run of a registered network; name one as MODEL"


def test_sets_that_would_be_kept_under_one_name_are_refused_before_they_are_scored(
    typed: Typed, tmp_path: Path
) -> None:
    there, _ = lab(tmp_path)
    best = sweep(tiny(photographs(tmp_path / "photos"), trials=1), there, storage(tmp_path)).best
    assert best is not None
    sets = [str(pictures(tmp_path / name)) for name in ("Set 5", "Set(5)")]
    line = typed.error("evaluate", best.model, "--log", "--benchmark", sets[0], "--benchmark", sets[1])
    assert line == ("evaluate: --log: Set 5 and Set(5) would be kept under one name; rename a folder, or leave one out")
    assert key_of("日本") != key_of("пейзажи")


def test_a_file_for_rgb_scores_grey_pictures_as_one_for_luma_does(typed: Typed, tmp_path: Path) -> None:
    file, folder = weights(tmp_path / "tiny.safetensors"), pictures(tmp_path / "set")
    assert typed("export", str(file), "-o", "tiny.onnx") == 0
    assert typed("export", str(file), "-o", "rgb.onnx", "--rgb") == 0
    luma_, rgb = typed.json("evaluate", "tiny.onnx", "rgb.onnx", "--benchmark", folder)["models"]
    by_name = [{each["name"]: each["psnr"] for each in model["sets"][0]["pictures"]} for model in (luma_, rgb)]
    grey = next(name for name in by_name[0] if name.startswith("c"))
    assert by_name[1][grey] == pytest.approx(by_name[0][grey], abs=0.05)


def test_a_set_without_lr_is_scored_on_matlabs_bicubic(typed: Typed, tmp_path: Path) -> None:
    file = weights(tmp_path / "tiny.safetensors")
    made, given = pictures(tmp_path / "made", given=False), tmp_path / "given"
    (given / "HR").mkdir(parents=True)
    (given / "LR_x2").mkdir()
    for path in sorted((made / "HR").iterdir()):
        picture = np.asarray(Image.open(path))
        Image.fromarray(picture).save(given / "HR" / path.name)
        Image.fromarray(downscale(picture, 2)).save(given / "LR_x2" / f"{path.stem}x2.png")
    found = typed.json("evaluate", file, "--benchmark", made, "--benchmark", given)
    first, second = found["models"][0]["sets"]
    assert first["psnr"] == second["psnr"]
