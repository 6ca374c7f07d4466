"""What tests of training share."""

from collections.abc import Callable

import pytest


@pytest.fixture
def one_thread(torch_threads: Callable[[int], None]) -> None:
    """As many on every machine, so that sums are taken in the same order; fastest for networks this small."""
    torch_threads(1)
