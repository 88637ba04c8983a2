"""A clip whose prefix the tiny models continue, made once for each of these files."""

from __future__ import annotations

import pytest
from tiny_wan import build_scenario

from engine.types import Scenario


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return build_scenario(tmp_path_factory.mktemp("clips"))
