import dataclasses
import json
from pathlib import Path

import pytest

from sesr_lab.errors import TargetError
from sesr_lab.study.config import Architecture
from sesr_lab.targets import catalog
from sesr_lab.targets.catalog import estimates, kind_of
from sesr_lab.targets.estimate import TARGETS, Estimate, Size, check_fits, macs_of, parse_size

pytest.importorskip("ethosu.vela")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxruntime")

TINY = Size(32, 24)
NETWORKS = [Architecture(m=1, f=8), Architecture(m=2, f=8), Architecture(m=2, f=8, feature_size=64, block="expanded")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sesr-lab" / "estimates"


def no_more(*_: object) -> Estimate:
    raise AssertionError("estimated again")


# Sizes


@pytest.mark.parametrize("text", ["640x360", " 640 x 360 ", "640X360", "640×360"])
def test_a_size_is_width_and_height(text):
    assert parse_size(text) == Size(640, 360)
    assert str(parse_size(text)) == "640x360"


@pytest.mark.parametrize("text", ["", "640", "640x", "x360", "0x360", "640x0", "-640x360", "6.4x3", "640x360x3", "axb"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"is no size of a picture; give width and height in pixels, as in 640x360"):
        parse_size(text)


def test_macs_are_those_of_that_picture():
    # 13,520 weights at 1280×720 / 2²: the paper's 3.1 GMACs
    assert macs_of(Architecture(), Size(640, 360)) == pytest.approx(3.1e9, rel=0.01)


def test_fewer_bytes_fit_more_pixels():
    check_fits("here", Architecture(), Size(100, 100), bytes_per_value=1, memory=480_000)
    with pytest.raises(TargetError, match=r"^here: input 100x100: too large: a network with f = 16 needs 0.0 GB"):
        check_fits("here", Architecture(), Size(100, 100), bytes_per_value=4, memory=480_000)


# Targets


def test_there_are_these_targets():
    assert TARGETS == ("macs", "ethos-u55-256", "ethos-u65-512", "ethos-u85-2048", "onnxruntime-cpu")
    assert [kind_of(name) for name in TARGETS] == ["counted", *["computed"] * 3, "measured"]


def test_an_unknown_target_is_answered_with_the_list():
    with pytest.raises(TargetError) as caught:
        estimates("ethos-u55", NETWORKS, TINY)
    line = str(caught.value)
    assert line.startswith("target: 'ethos-u55' is unknown; did you mean 'ethos-u55-256'? allowed: macs, ethos-u55-256")
    assert "\n" not in line


def test_macs_need_no_tool_and_take_no_time():
    (first, *_) = estimates("macs", NETWORKS, TINY)
    assert first == Estimate("macs", "arithmetic", "32x24", macs_of(NETWORKS[0], TINY), None)


@pytest.mark.parametrize("target", ["ethos-u55-256", "onnxruntime-cpu"])
def test_networks_that_run_alike_are_estimated_once(target, cache):
    found = estimates(target, NETWORKS, TINY)
    assert found[1] == found[2]
    assert found[0].milliseconds < found[1].milliseconds
    assert len(list(cache.iterdir())) == 2
    assert {estimate.target for estimate in found} == {target}
    assert all(estimate.memory_bytes for estimate in found)


@pytest.mark.parametrize("target", ["ethos-u55-256", "onnxruntime-cpu"])
def test_the_second_time_nothing_is_estimated(target, monkeypatch):
    first = estimates(target, NETWORKS, TINY)
    monkeypatch.setattr(catalog, "vela_estimate", no_more)
    monkeypatch.setattr(catalog, "cpu_estimates", lambda shapes, _: [no_more() for _ in shapes])
    assert estimates(target, NETWORKS, TINY) == first
    with pytest.raises(AssertionError):
        estimates(target, NETWORKS, TINY, fresh=True)


def test_another_size_version_or_target_is_another_estimate(monkeypatch):
    estimates("ethos-u55-256", NETWORKS, TINY)
    monkeypatch.setattr(catalog, "vela_estimate", no_more)
    for target, size in (("ethos-u55-256", Size(24, 32)), ("ethos-u65-512", TINY)):
        with pytest.raises(AssertionError):
            estimates(target, NETWORKS, size)
    monkeypatch.setattr(catalog, "vela_version", lambda: "ethos-u-vela 9.9.9")
    with pytest.raises(AssertionError):
        estimates("ethos-u55-256", NETWORKS, TINY)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"target": "ethos-u55-256"}'])
def test_a_damaged_memory_is_made_again(damage, cache):
    first = estimates("ethos-u55-256", NETWORKS[:1], TINY)
    (file,) = cache.iterdir()
    file.write_text(damage)
    assert estimates("ethos-u55-256", NETWORKS[:1], TINY) == first
    assert json.loads(file.read_text())["target"] == "ethos-u55-256"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert estimates("ethos-u55-256", NETWORKS[:1], TINY)[0].milliseconds


def test_without_a_home_nothing_is_remembered(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert estimates("ethos-u55-256", NETWORKS[:1], TINY)[0].milliseconds


def test_what_was_estimated_before_a_failure_is_remembered(cache, monkeypatch):
    real = catalog.vela_estimate

    def fails_at_two(accelerator, shape, size):
        if shape.m == 2:
            raise TargetError("ethos-u55-256: cannot")
        return real(accelerator, shape, size)

    monkeypatch.setattr(catalog, "vela_estimate", fails_at_two)
    with pytest.raises(TargetError):
        estimates("ethos-u55-256", NETWORKS, TINY)
    assert len(list(cache.iterdir())) == 1


def test_a_measured_time_has_a_spread_and_grows_with_the_picture():
    small, large = (estimates("onnxruntime-cpu", [Architecture(m=3)], Size(side, side))[0] for side in (32, 128))
    assert small.spread_ms is not None
    assert small.spread_ms >= 0
    assert large.milliseconds > 4 * small.milliseconds
    assert large.tool.startswith("onnxruntime ")


def test_a_picture_beyond_this_machines_memory_is_refused():
    with pytest.raises(TargetError, match=r"^onnxruntime-cpu: input 30000x30000: too large: "):
        estimates("onnxruntime-cpu", [Architecture(f=512)], Size(30_000, 30_000))


@pytest.mark.parametrize(("target", "module"), [("ethos-u55-256", "ethosu"), ("onnxruntime-cpu", "onnxruntime")])
def test_a_missing_tool_is_one_line_with_the_extra(target, module, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TargetError, match=r"is not installed; pip install 'sesr-lab\[targets\]'$") as caught:
        estimates(target, NETWORKS, TINY)
    assert "\n" not in str(caught.value)


def test_an_estimate_is_plain_values():
    (found,) = estimates("ethos-u85-2048", NETWORKS[:1], TINY)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["input"] == "32x24"
