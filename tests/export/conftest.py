"""One small published servable for all tests of a process."""

import pytest

from keras_attn import export, models
from tests.export import cpp_loader, small


@pytest.fixture(scope="session")
def model():
    """A masked language model with random weights."""
    return models.bert.pretraining(small.SIZE)


@pytest.fixture(scope="session")
def servable(model, tmp_path_factory):
    """The model, published with every signature."""
    base_dir = tmp_path_factory.mktemp("served") / "bert"
    return export.publish(model, base_dir, **small.masked_lm_layers(), server="2.19")


@pytest.fixture(scope="session")
def loader(tmp_path_factory):
    """The C++ program that loads as ModelServer does."""
    return cpp_loader.build(tmp_path_factory.mktemp("cpp"))
