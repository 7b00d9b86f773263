"""A finished run with checkpoints, for the tests of checkpoints."""

import shutil

import pytest

from tests.training.runs import train


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="session")
def whole(directory):
    return train(directory, every=4)


@pytest.fixture
def finished(whole, directory, tmp_path):
    """A copy of the files of `whole`."""
    return shutil.copytree(directory, tmp_path / "finished")
