"""Results on standard output: one JSON document, or words."""

from __future__ import annotations

import json
from collections.abc import Mapping


def show_facts(title: str, values: Mapping[str, object], *, as_json: bool) -> None:
    """Names and what they stand for, as JSON or under a title."""
    if as_json:
        print_json(values)
        return
    from sesr_lab.cli.tables import show_mapping

    show_mapping(title, values)


def print_json(document: object) -> None:
    """One document on standard output; what is not a number in JSON (NaN, infinity) becomes null."""
    print(json.dumps(json.loads(json.dumps(document, default=str), parse_constant=lambda name: None), indent=2))
