from __future__ import annotations

import pytest
from tiny_training import make_config, run


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """A finished run and its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run(folder, config=make_config())
