"""NumPy's linear algebra is on one thread once a selector that needs it is there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from engine.selectors import geometry, static_camera
from engine.selectors._threads import numpy_on_one_thread
from engine.types import SelectorSettings

BUILD = (geometry.build, static_camera.build)


@pytest.fixture
def of_numpy() -> Iterator[list[object]]:
    """Its libraries with two threads each; as they were afterwards."""
    np.ones((2, 2)) @ np.ones((2, 2))
    found = [one for one in ThreadpoolController().lib_controllers if "numpy" in one.filepath]
    if not found:
        pytest.skip("NumPy here has no linear algebra of its own")
    before = [one.get_num_threads() for one in found]
    for one in found:
        one.set_num_threads(2)
    numpy_on_one_thread.cache_clear()
    yield found
    for one, count in zip(found, before, strict=True):
        one.set_num_threads(count)
    numpy_on_one_thread.cache_clear()


@pytest.mark.parametrize("build", BUILD)
def test_a_selector_of_small_products_keeps_them_on_its_thread(build, of_numpy) -> None:
    assert [one.get_num_threads() for one in of_numpy] == [2] * len(of_numpy)
    build(SelectorSettings())
    assert [one.get_num_threads() for one in of_numpy] == [1] * len(of_numpy)
