"""Small published servables, each made once for all tests of a process."""

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
    """A stand-in for ModelServer that has it."""
    pytest.importorskip("tensorflow_serving")
    from tests.export.serving_double import Double

    with Double(servable.path.parent) as double:
        yield double


@pytest.fixture(scope="session")
def loader(tmp_path_factory):
    """The C++ program that loads as ModelServer does."""
    return cpp_loader.build(tmp_path_factory.mktemp("cpp"))


@pytest.fixture
def checked_here(monkeypatch):
    """`publish` checks in this process, which spares seconds; for tests of something else."""
    monkeypatch.setattr(isolation, "FreshProcess", small.ThisProcess)
