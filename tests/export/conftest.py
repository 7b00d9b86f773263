"""Small published servables, each made once per test session."""

import pytest

from keras_attn import export, models
from keras_attn.export import isolation
from tests.export import cpp_loader, small


@pytest.fixture(scope="session")
def model():
    """A masked language model with random weights."""
    return models.bert.pretraining(small.SIZE)


@pytest.fixture(scope="session")
def servable(model, tmp_path_factory):
    """The model, published with every signature."""
    base_dir = tmp_path_factory.mktemp("served") / "bert"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(isolation, "FreshProcess", small.ThisProcess)
        return export.publish(model, base_dir, **small.masked_lm_layers(), server="2.19")


@pytest.fixture(scope="session")
def server(servable):
    """A stand-in for ModelServer that serves it."""
    pytest.importorskip("tensorflow_serving")
    from tests.export.serving_double import Double

    with Double(servable.path.parent) as double:
        yield double


@pytest.fixture(scope="session")
def loader(tmp_path_factory):
    """The C++ program that loads a SavedModel as ModelServer does."""
    return cpp_loader.build(tmp_path_factory.mktemp("cpp"))


@pytest.fixture
def checked_here(monkeypatch):
    """Let `publish` check in this process, which is seconds faster; for tests of other things."""
    monkeypatch.setattr(isolation, "FreshProcess", small.ThisProcess)
