"""Libraries are loaded without garbage collection, which is afterwards as it was before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tandem.model.libraries import importing_much


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize("collects", [True, False])
def test_nothing_is_collected_meanwhile_and_afterwards_only_what_is_new_is_looked_at(collects: bool) -> None:
    (gc.enable if collects else gc.disable)()
    with importing_much():
        assert not gc.isenabled()
        library: list[object] = []
        library.append(library)
    assert gc.isenabled() is collects
    assert not any(kept is library for kept in gc.get_objects())


def test_a_library_that_cannot_be_imported_leaves_collection_on() -> None:
    with pytest.raises(ImportError), importing_much():
        raise ImportError
    assert gc.isenabled()
