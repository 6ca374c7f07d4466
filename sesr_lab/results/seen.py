"""What of a benchmark a network has seen in training, as far as this machine has the pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sesr_lab.data import Progress
from sesr_lab.data.dataset import prepared_folder
from sesr_lab.data.gallery import Gallery, kept, of_folder
from sesr_lab.data.leaks import Leak, seen
from sesr_lab.registry.lookup import Named
from sesr_lab.results.inference import BICUBIC
from sesr_lab.scores.evaluate import Benchmark

_log = logging.getLogger(__name__)


class Seen:
    """Which pictures of the sets a network has seen in training, where its pictures were prepared on this machine."""

    def __init__(self, sets: Sequence[Benchmark], progress: Progress | None) -> None:
        self.sets, self.progress = sets, progress
        self._known: dict[tuple[str, int], tuple[Leak, ...] | None] = {}
        self._galleries: dict[int, Gallery] = {}

    def by(self, model: str, named: Named | None, index: int) -> tuple[Leak, ...] | None:
        """What a network has seen of a set, which is said; None where that is not known."""
        if model == BICUBIC:
            return ()
        if named is None:
            return None
        fingerprint = "" if named.version is None else named.version.data_fingerprint
        if (fingerprint, index) not in self._known:
            self._known[fingerprint, index] = self._find(fingerprint, index)
        found = self._known[fingerprint, index]
        if found:
            item, pictures = self.sets[index], {leak.picture: leak for leak in reversed(found)}
            listed = ", ".join(f"{leak.picture} ({leak.where})" for leak in pictures.values())
            said = f"was trained on what {len(pictures)} of the {len(item)} pictures show, and scores too well there"
            _log.warning("%s: %s %s: %s", item.name, model, said, listed)
        return found

    def _find(self, fingerprint: str, index: int) -> tuple[Leak, ...] | None:
        trained_on = kept(fingerprint, prepared_folder())
        if trained_on is None:
            return None
        if index not in self._galleries:
            self._galleries[index] = of_folder(self.sets[index].locations, self.progress)
        try:
            return tuple(seen(trained_on, self._galleries[index], self.progress))
        except LookupError:  # some of the prepared pictures were deleted
            return None
