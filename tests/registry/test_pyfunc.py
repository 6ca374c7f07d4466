"""Registered networks as MLflow's users know models: loaded, served, given pictures."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import skimage.data
from mlflow_store import free_port, new_store
from numpy.typing import NDArray
from PIL import Image
from registered import NAME, published

from sesr_lab.registry import upscaler
from sesr_lab.registry.catalog import by_number
from sesr_lab.registry.lookup import of_version
from sesr_lab.registry.pyfunc import REQUIREMENTS, pyfunc_files
from sesr_lab.results.decoding import Picture
from sesr_lab.results.inference import of_named
from sesr_lab.results.upscaling import upscaled
from sesr_lab.tracking.runs import Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A store with one registered network."""
    tracker = new_store(tmp_path_factory.mktemp("pyfunc"))
    published(tracker)
    return tracker


@pytest.fixture
def model(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> mlflow.pyfunc.PyFuncModel:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    return mlflow.pyfunc.load_model(f"models:/{NAME}/1")


def folder_of(tracker: Tracker) -> Path:
    (found,) = tracker.client.search_logged_models([tracker.experiment("trials")])
    return Path(found.artifact_location.removeprefix("file://"))


def file_of(samples: NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, kind, **options)
    return file.getvalue()


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def cat(side: int = 40) -> NDArray[np.uint8]:
    return np.ascontiguousarray(skimage.data.chelsea()[100 : 100 + side, 120 : 120 + side + 8])


ALPHA = np.linspace(0, 255, 40 * 48).reshape(40, 48, 1).astype(np.uint8)
PICTURES = {
    "colour": cat(),
    "grey": cat()[..., 1],
    "colour and alpha": np.concatenate([cat(), ALPHA], axis=2),
    "grey and alpha": np.concatenate([cat()[..., :1], ALPHA], axis=2),
    "one row": cat()[:1],
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_loaded_model_makes_what_upscale_makes(tracker: Tracker, model: mlflow.pyfunc.PyFuncModel, kind: str) -> None:
    samples = PICTURES[kind]
    answer = model.predict(pd.DataFrame({"image": [file_of(samples), file_of(samples)]}))
    found = np.asarray(opened(answer["image"][1]))
    whole = samples.reshape(*samples.shape[:2], -1)
    network = of_named(of_version(tracker, by_number(tracker, NAME, 1)))
    expected = np.concatenate(list(upscaled(Picture(whole), network)))
    # two ways to add the same numbers in float32: a sample that falls on a half may be rounded up or down
    assert np.abs(found.reshape(expected.shape).astype(int) - expected).max() <= 1


def test_strips_of_a_tall_picture_leave_no_trace(model: mlflow.pyfunc.PyFuncModel) -> None:
    tall = np.ascontiguousarray(skimage.data.chelsea()[:, :32])
    assert len(tall) > upscaler.STRIP
    python_model = model.unwrap_python_model()
    luma = tall[..., 0].astype(np.float32) / 255
    np.testing.assert_allclose(python_model._network(luma), python_model._run(luma), atol=1e-6)


def test_pictures_are_turned_upright_and_16_bits_are_read(model: mlflow.pyfunc.PyFuncModel) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    deep = (cat()[..., 0].astype(np.uint16) * 257).astype(np.uint16)
    rows = [file_of(cat(), "JPEG", exif=exif), file_of(deep), file_of(cat()[..., 0])]
    turned, from_16, from_8 = (opened(text) for text in model.predict(pd.DataFrame({"image": rows}))["image"])
    assert turned.size == (80, 96)
    np.testing.assert_array_equal(np.asarray(from_16), np.asarray(from_8))


def test_what_is_no_picture_is_refused_by_its_row(model: mlflow.pyfunc.PyFuncModel) -> None:
    with pytest.raises(mlflow.MlflowException, match="row 2: `image` holds no picture") as caught:
        model.predict(pd.DataFrame({"image": [file_of(cat()), b"GIF89a"]}))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_mlflow_knows_signature_example_and_requirements(tracker: Tracker, model: mlflow.pyfunc.PyFuncModel) -> None:
    assert model.metadata.get_input_schema().to_dict() == [{"name": "image", "type": "binary", "required": True}]
    assert model.metadata.get_output_schema().to_dict() == [{"name": "image", "type": "string", "required": True}]
    assert opened(model.predict(model.input_example)["image"][0]).size == (32, 32)
    pinned = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{NAME}/1")).read_text().split()
    assert [line.partition("==")[0] for line in pinned] == list(REQUIREMENTS)
    assert all(re.fullmatch(r"[a-z]+==[\d.]+", line) for line in pinned), "an index has no local versions"


def test_the_requirements_are_all_that_the_model_s_code_imports() -> None:
    program = (
        "import sys, runpy; sys.modules['sesr_lab'] = None; "
        f"runpy.run_path({upscaler.__file__!r}); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = re.findall(r"^(?:from|import) (\w+)", Path(upscaler.__file__).read_text(), re.MULTILINE)
    names = {"PIL": "pillow"}
    assert {names.get(name, name) for name in imported} - set(sys.stdlib_module_names) == set(REQUIREMENTS)


def test_a_model_holds_no_pickle_and_no_path_of_this_machine(tracker: Tracker) -> None:
    folder = folder_of(tracker)
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "upscaler.py", "requirements.txt", "collapsed.safetensors", "weights.safetensors"} <= names
    assert not {name for name in names if name.endswith((".pkl", ".pth", ".pt"))}
    for name in names - {"weights.safetensors", "collapsed.safetensors"}:
        text = (folder / name).read_text(encoding="utf-8")
        assert str(Path.home()) not in text
        assert str(folder.parents[3]) not in text
        assert str(Path(upscaler.__file__).parent) not in text


def test_making_it_one_of_mlflow_s_models_costs_less_than_half_a_second() -> None:
    pyfunc_files(0)
    before = time.process_time()
    for _ in range(10):
        pyfunc_files(0)
    assert (time.process_time() - before) / 10 < 0.05, "0.5 s are allowed; what is left is for sending the files"


def test_mlflow_serves_a_registered_network(tracker: Tracker, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{NAME}@champion"]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"]
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracker.uri, "PATH": here}
    log = (tmp_path / "log").open("wb")
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _until_it_answers(server, port)
        rows = [[base64.b64encode(file_of(cat())).decode()]]
        answer = _post(port, {"dataframe_split": {"columns": ["image"], "data": rows}})
        assert opened(answer["predictions"][0]["image"]).size == (96, 80)
        example = json.loads((folder_of(tracker) / "serving_input_example.json").read_text())
        assert opened(_post(port, example)["predictions"][0]["image"]).size == (32, 32)
        with pytest.raises(urllib.error.HTTPError) as refused:
            _post(port, {"dataframe_records": [{"image": base64.b64encode(b"nothing").decode()}]})
        assert refused.value.code == 400
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()


def _post(port: int, document: object) -> dict[str, list[dict[str, str]]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(document).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        found: dict[str, list[dict[str, str]]] = json.load(response)
        return found


def _until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert server.poll() is None
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError("mlflow models serve does not answer")
