"""What a broken trial leaves behind: memory, a GPU that may be lost, and what is said of it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from labs import lab, photographs, storage, study

from sesr_lab.errors import SesrError
from sesr_lab.study.config import TrialConfig
from sesr_lab.sweep import driver
from sesr_lab.sweep.driver import sweep
from sesr_lab.sweep.repair import is_poisoned, let_go
from sesr_lab.sweep.together import turns_of
from sesr_lab.trials import trial
from sesr_lab.trials.recorder import is_out_of_memory

GPU = torch.device("cuda", 1)


class Allocator:
    """In place of torch.cuda: what it is asked, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.asked: list[tuple[object, ...]] = []
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, self._answer(name, name == failing))

    def _answer(self, name: str, fails: bool) -> Any:
        def answer(*given: object) -> None:
            self.asked.append((name, *given))
            if fails:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

        return answer


def test_a_study_on_the_cpu_asks_no_gpu_whether_it_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Allocator(monkeypatch, failing="synchronize")
    assert not is_poisoned(torch.device("cpu"))
    assert cuda.asked == []


def test_the_gpu_that_is_asked_is_the_one_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Allocator(monkeypatch)
    assert not is_poisoned(GPU)
    assert cuda.asked == [("synchronize", GPU), ("empty_cache",)]


@pytest.mark.parametrize("failing", ["synchronize", "empty_cache"])
def test_a_gpu_that_refuses_is_poisoned(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Allocator(monkeypatch, failing=failing)
    assert is_poisoned(GPU)


def test_what_the_frames_of_an_error_hold_is_freed_and_its_text_stays() -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def inner() -> None:
        tensor = torch.zeros(10)
        seen.append(weakref.ref(tensor))
        raise ValueError(f"of {len(tensor)}")

    def outer() -> None:
        tensor = torch.zeros(20)
        seen.append(weakref.ref(tensor))
        try:
            inner()
        except ValueError as error:
            held = error  # as an executor's frame holds it: the error holds the frame, and the frame the error
            raise RuntimeError("it broke") from held

    try:
        outer()
    except RuntimeError as error:
        broken: BaseException = error
    assert [ref() is None for ref in seen] == [False, False]
    let_go(broken)
    assert [ref() is None for ref in seen] == [True, True]
    assert (str(broken), str(broken.__cause__)) == ("it broke", "of 10")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError("no memory for 2 threads"), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_no_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.fixture
def data(tmp_path: Path) -> str:
    return photographs(tmp_path / "pictures")


class Breaking:
    """Has networks of four features end in `error`, a tensor in their hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.tries, self.error = Counter[int](), error
        self.held: list[weakref.ref[torch.Tensor]] = []
        self.still_held = False
        """Whether a trial began while the tensor of one before it was there."""
        monkeypatch.setattr(trial, "run_in_turns", partial(self._run, trial.run_in_turns))

    def _run(self, real: Callable[..., Any], config: TrialConfig, *given: Any, **others: Any) -> Iterator[Any]:
        self.still_held |= any(ref() is not None for ref in self.held)
        self.tries[config.f] += 1
        if config.f == 4:
            tensor = torch.zeros(10)
            self.held.append(weakref.ref(tensor))
            raise self.error
        yield from real(config, *given, **others)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [None, 2])
def test_a_network_that_does_not_fit_is_told_at_once_and_the_study_goes_on(
    tmp_path: Path, data: str, at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Breaking(monkeypatch, RuntimeError("CUDA error: out of memory"))
    spec = study(data, space={"m": [1, 2], "f": [4, 2], "feature_size": [8]}, trials=9).changed(
        trials_per_device=at_once
    )
    result = sweep(spec, lab(tmp_path)[0], storage(tmp_path), start=turns_of(spec))
    assert broken.tries == {2: 2, 4: 2}
    assert not broken.still_held
    by_f = {outcome.settings["f"]: outcome for outcome in result.outcomes}
    assert by_f[2].result == "finished"
    assert by_f[4].result == "out of memory"
    assert "out of memory" in by_f[4].reason


@pytest.mark.slow
def test_a_study_ends_whose_gpu_is_lost_and_the_same_command_goes_on(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study(data, space={"m": [1], "f": [2, 4], "feature_size": [8]}, trials=9)
    with monkeypatch.context() as patched:
        broken = Breaking(patched, RuntimeError("CUDA error: an illegal memory access was encountered"))
        patched.setattr(driver, "is_poisoned", lambda device: True)
        with pytest.raises(SesrError, match=r"study tiny: the GPU cannot be used .*illegal.*the same command goes on"):
            sweep(spec, lab(tmp_path)[0], storage(tmp_path))
        assert broken.tries[4] == 1
    result = sweep(spec, lab(tmp_path)[0], storage(tmp_path))
    assert {outcome.result for outcome in result.outcomes} == {"finished"}
    assert len(result.outcomes) == 2
