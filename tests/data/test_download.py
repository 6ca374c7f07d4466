"""Against a real HTTP server on this machine that misbehaves on demand."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sesr_lab.data import download
from sesr_lab.data.download import fetch
from sesr_lab.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SIZE, SHA256 = len(CONTENT), hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    shift: int = 0
    """Bytes by which ranges come from the wrong place."""
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the next connections break off."""
    status: int = 200
    delay_s: float = 0.0
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def start(self, asked: str | None) -> int:
        return int(asked.removeprefix("bytes=").rstrip("-")) + self.shift if asked and self.ranges else 0


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            site.asked.append(asked)
            time.sleep(site.delay_s)
            start = site.start(asked)
            if site.status != 200 or start >= len(site.content):
                self.send_error(site.status if site.status != 200 else 416)
                return
            self.answer(start, partial=asked is not None and site.ranges)

        def answer(self, start: int, *, partial: bool) -> None:
            body = site.content[start:]
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(len(body)))
            if partial:
                last = len(site.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(site.content)}")
            self.end_headers()
            self.wfile.write(body[: site.break_after.pop(0)] if site.break_after else body)

        def log_message(self, *_: object) -> None: ...

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/pictures.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "pictures.zip"


def part_of(to: Path, content: bytes) -> Path:
    to.parent.mkdir(parents=True)
    part = to.with_name("pictures.zip.part")
    part.write_bytes(content)
    return part


def refusal(url: str, to: Path, *, size: int = SIZE, sha256: str = SHA256) -> str:
    with pytest.raises(DataError) as caught:
        fetch(url, to, size=size, sha256=sha256)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_arrives_whole_and_reports_its_progress(site: Site, to: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    fetch(site.url, to, size=SIZE, sha256=SHA256, progress=lambda *at: seen.append(at))
    assert to.read_bytes() == CONTENT
    assert not to.with_name("pictures.zip.part").exists()
    assert (SIZE, SIZE, "downloading pictures.zip") in seen
    assert seen[-1] == (SIZE, SIZE, "checking pictures.zip")


def test_a_file_that_was_fetched_is_neither_fetched_nor_read_again(site: Site, to: Path) -> None:
    seen: list[object] = []
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    fetch(site.url, to, size=SIZE, sha256=SHA256, progress=lambda *at: seen.append(at))
    assert len(site.asked) == 1
    assert seen == []


def test_a_broken_connection_goes_on_where_it_stopped(site: Site, to: Path) -> None:
    site.break_after = [300_000, 200_000]
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    assert to.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_part_left_by_a_killed_process_is_gone_on_with(site: Site, to: Path) -> None:
    part_of(to, CONTENT[:1000])
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    assert to.read_bytes() == CONTENT
    assert site.asked == ["bytes=1000-"]


def test_a_complete_part_is_only_checked(site: Site, to: Path) -> None:
    part_of(to, CONTENT)
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    assert to.read_bytes() == CONTENT
    assert site.asked == []


def test_a_part_that_is_too_long_is_begun_anew(site: Site, to: Path) -> None:
    part_of(to, CONTENT + b"more")
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    assert to.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_again(site: Site, to: Path) -> None:
    site.ranges, site.break_after = False, [300_000]
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    assert to.read_bytes() == CONTENT


def test_a_server_that_never_gets_through_is_given_up(site: Site, to: Path) -> None:
    site.ranges, site.break_after = False, [1000] * 50
    message = refusal(site.url, to)
    assert f"1000 of {SIZE} bytes" in message
    assert f"put it at {to}" in message
    assert len(site.asked) <= 1 + download.ATTEMPTS


def test_a_server_that_sends_another_range_is_asked_for_the_whole(site: Site, to: Path) -> None:
    part_of(to, CONTENT[:1000])
    site.shift = 7
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    assert to.read_bytes() == CONTENT
    assert site.asked == ["bytes=1000-", None]


def test_a_file_of_another_length_on_the_server_is_refused(site: Site, to: Path) -> None:
    site.content = CONTENT + b"changed"
    message = refusal(site.url, to)
    assert f"the server has {SIZE + 7} bytes; {SIZE} are expected" in message
    assert not to.exists()


def test_wrong_bytes_are_deleted_and_named(site: Site, to: Path) -> None:
    site.content = CONTENT[::-1]
    message = refusal(site.url, to)
    assert hashlib.sha256(site.content).hexdigest() in message
    assert SHA256 in message
    assert "it was deleted; try again" in message
    assert not to.exists()
    assert not to.with_name("pictures.zip.part").exists()


def test_a_missing_file_is_refused_at_once(site: Site, to: Path) -> None:
    site.status = 404
    message = refusal(site.url, to)
    assert message.startswith(f"{site.url}: cannot be downloaded (the server answers 404")
    assert f"put it at {to}" in message
    assert len(site.asked) == 1


def test_an_overloaded_server_is_asked_again(site: Site, to: Path) -> None:
    site.status = 503
    assert "503" in refusal(site.url, to)
    assert len(site.asked) == download.ATTEMPTS


def test_without_a_network_the_url_and_the_place_are_named(to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    url = "http://127.0.0.1:9/pictures.zip"  # the discard port: nobody listens
    message = refusal(url, to)
    assert re.search(r"Connection refused", message)
    assert f"download {url} by hand and put it at {to}" in message


def test_a_file_put_by_hand_is_taken_without_asking_the_server(site: Site, to: Path) -> None:
    to.parent.mkdir()
    to.write_bytes(CONTENT)
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    assert site.asked == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[::-1]], ids=["shorter", "altered"])
def test_a_wrong_file_put_by_hand_is_refused_and_left_alone(site: Site, to: Path, content: bytes) -> None:
    to.parent.mkdir()
    to.write_bytes(content)
    assert "remove it to download it anew" in refusal(site.url, to)
    assert to.read_bytes() == content


def test_a_file_altered_after_it_was_checked_is_noticed(site: Site, to: Path) -> None:
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    to.write_bytes(CONTENT[::-1])
    assert "SHA-256" in refusal(site.url, to)


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_noticed(site: Site, to: Path) -> None:
    fetch(site.url, to, size=SIZE, sha256=SHA256)
    times = to.stat()
    with to.open("r+b") as file:
        file.write(CONTENT[:5000] + bytes(10) + CONTENT[5010:])
    os.utime(to, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "SHA-256" in refusal(site.url, to)


def test_a_disk_without_room_is_named_before_anything_is_fetched(site: Site, to: Path) -> None:
    message = refusal(site.url, to, size=10**18)
    assert "1000000000.0 GB are needed" in message
    assert site.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_a_disk_that_fills_up_is_named(site: Site, to: Path) -> None:
    to.parent.mkdir()
    to.with_name("pictures.zip.part").symlink_to("/dev/full")
    assert "No space left on device" in refusal(site.url, to)


def test_a_place_that_cannot_be_written_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    message = refusal(site.url, tmp_path / "file" / "pictures.zip")
    assert "cannot be written" in message


def test_two_processes_fetch_a_file_once(site: Site, to: Path) -> None:
    site.delay_s = 0.5
    code = (
        f"from pathlib import Path; from sesr_lab.data.download import fetch; fetch({site.url!r}, Path({str(to)!r}), "
    )
    command = [sys.executable, "-c", code + f"size={SIZE}, sha256={SHA256!r})"]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert to.read_bytes() == CONTENT
    assert len(site.asked) == 1
