"""Tiny model folders and two simulated scenes, made once for these tests."""

from __future__ import annotations

import pytest
from tiny_run import Folders, make_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("api"))
