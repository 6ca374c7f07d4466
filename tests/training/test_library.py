"""The compiled kernel's cache: what is kept, what is not trusted, and what is done where nothing can be kept."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sesr_lab.training import library

pytestmark = [pytest.mark.slow, pytest.mark.skipif(library.compiler() is None, reason="no C compiler")]
ROOT = Path(library.__file__).parents[2]
QUICK = "from sesr_lab.training import library; library.FLAGS = ('-O0', '-fPIC', '-shared', '-pthread')"
"""Compiling is quick where nothing is trained."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where libraries are kept, empty; temporary folders lie beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(library, "FLAGS", ("-O0", "-fPIC", "-shared", "-pthread"))
    library.load.cache_clear()
    yield tmp_path / "cache" / "sesr-lab" / "kernels"
    library.load.cache_clear()


def load_again() -> None:
    library.load.cache_clear()
    assert library.load().sesr_run


def identity(path: Path) -> tuple[str, int]:
    return path.name, path.stat().st_mtime_ns


def test_a_library_is_kept_for_the_processes_that_follow(kept: Path) -> None:
    load_again()
    (first,) = kept.iterdir()
    before = identity(first)
    load_again()
    assert [identity(path) for path in kept.iterdir()] == [before]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700


def test_another_processor_source_or_compiler_asks_for_another_library(
    kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load_again()
    monkeypatch.setattr(library, "_machine", lambda: "other")
    load_again()
    assert len(list(kept.iterdir())) == 2
    wrapper = tmp_path / "cc"
    wrapper.write_text(f'#!/bin/sh\nexec {library.compiler()} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(library, "compiler", lambda: str(wrapper))
    load_again()
    assert len(list(kept.iterdir())) == 3
    copy = tmp_path / "source"
    copy.mkdir()
    for source in library.SOURCES:
        (copy / source).write_text((library.FOLDER / source).read_text(encoding="utf-8"), encoding="utf-8")
    (copy / "kernel.c").open("a").write("/* changed */\n")
    monkeypatch.setattr(library, "FOLDER", copy)
    load_again()
    assert len(list(kept.iterdir())) == 4


def test_what_a_processor_can_do_is_in_the_librarys_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder may be shared by unlike machines."""
    names = []
    monkeypatch.setattr(library, "_machine", library._machine.__wrapped__)  # nothing is kept
    for flags in ("sse2 avx2", "sse2 avx2 avx512f", "sse2 avx2"):
        said = f"processor\t: 0\nmodel name\t: Some CPU\ncpu MHz\t: {len(names)}\nflags\t: {flags}\n\nprocessor\t: 1\n"
        monkeypatch.setattr(Path, "read_text", lambda path, encoding, said=said: said)
        names.append(library._machine())
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "longer"])
def test_a_damaged_library_is_compiled_again(kept: Path, damage: str) -> None:
    load_again()
    (made,) = kept.iterdir()
    whole = made.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    made.unlink()  # this process has the old one mapped
    made.write_bytes({"cut": whole[:middle], "empty": b"", "changed": changed, "longer": whole + b"x"}[damage])
    made.chmod(0o700)
    load_again()
    (again,) = kept.iterdir()
    assert again.read_bytes() == whole


def test_a_library_that_others_may_write_is_compiled_again(kept: Path) -> None:
    load_again()
    (made,) = kept.iterdir()
    made.chmod(0o777)
    before = made.stat().st_ino
    load_again()
    (again,) = kept.iterdir()
    assert again.stat().st_ino != before
    assert not again.stat().st_mode & 0o022


def test_a_link_to_a_library_is_not_followed(kept: Path, tmp_path: Path) -> None:
    load_again()
    (made,) = kept.iterdir()
    made.rename(tmp_path / "elsewhere.so")
    made.symlink_to(tmp_path / "elsewhere.so")
    load_again()
    (again,) = kept.iterdir()
    assert not again.is_symlink()


@needs_root
def test_a_library_of_another_user_is_compiled_again(kept: Path) -> None:
    load_again()
    (made,) = kept.iterdir()
    os.chown(made, 54321, 54321)
    load_again()
    assert [path.stat().st_uid for path in kept.iterdir()] == [0]


@needs_root
def test_a_folder_of_another_user_is_left_alone(kept: Path, tmp_path: Path) -> None:
    load_again()
    os.chown(kept, 54321, 54321)
    before = [identity(path) for path in kept.iterdir()]
    load_again()
    assert [identity(path) for path in kept.iterdir()] == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_folder_that_others_could_write_is_closed_to_them(kept: Path) -> None:
    kept.mkdir(parents=True)
    kept.chmod(0o777)
    load_again()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_written_costs_a_temporary_folder(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    load_again()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_cache_that_is_full_costs_a_temporary_folder(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is the first to know of a quota."""
    compiler = tmp_path / "cc"
    full = f'case "$*" in *{kept}*) echo "ld: final link failed: No space left on device" >&2; exit 1;; esac'
    compiler.write_text(f'#!/bin/sh\n{full}\nexec {library.compiler()} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(library, "compiler", lambda: str(compiler))
    load_again()
    assert list(kept.iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_a_home_a_temporary_folder_is_taken(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    load_again()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not kept.exists()


@needs_root
def test_a_cache_that_nothing_is_executed_from_costs_a_temporary_folder(tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    cache.mkdir()
    temporary.mkdir()
    mounted = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o noexec none {cache} || exit 77; exec "$@"', "sh"]
    code = f"{QUICK}; assert library.load().sesr_run"
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    subprocess.run([*mounted, sys.executable, "-c", code], env=environment, check=True)
    assert list(temporary.iterdir()) == []


@needs_root
def test_an_unknown_user_without_a_home_gets_the_kernel() -> None:
    place = Path(tempfile.mkdtemp())  # tmp_path is closed to others
    try:
        place.chmod(0o777)
        shutil.copytree(library.FOLDER, place / "source", ignore=shutil.ignore_patterns("*.py*"))
        (place / "temporary").mkdir(mode=0o777)
        (place / "temporary").chmod(0o777)
        environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
        environment |= {"TMPDIR": str(place / "temporary"), "PYTHONPATH": str(ROOT)}
        lines = [
            *("import os, pathlib", QUICK, f"library.FOLDER = pathlib.Path({str(place / 'source')!r})"),
            *("os.setgroups([])", "os.setgid(54321)", "os.setuid(54321)", "assert library.load().sesr_run"),
        ]
        subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, cwd="/", check=True)
        assert list((place / "temporary").iterdir()) == []
    finally:
        shutil.rmtree(place)


def test_two_processes_may_compile_at_once(kept: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", f"{QUICK}; library.load()"], env=os.environ | {"PYTHONPATH": str(ROOT)})
        for _ in range(2)
    ]
    assert [process.wait() for process in started] == [0, 0]
    load_again()
    assert len(list(kept.iterdir())) == 1
