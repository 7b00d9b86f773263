import sys

import numpy as np
import pytest

from keras_attn import models, weights
from keras_attn._checks import check_ids
from keras_attn.visualization import heatmap
from tests.backend import BACKEND, arrays, compiled, tensors


def save(folder):
    weights.save(models.bert.encoder("bert_tiny", vocabulary_size=20), folder)


def read(folder):
    weights.load(folder)


def draw(folder):
    heatmap(folder / "weights.png", np.eye(2), ["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    ("use", "package", "extra"),
    [(save, "safetensors", "weights"), (read, "safetensors", "weights"),
     (draw, "matplotlib", "visualization")],
)  # fmt: skip
def test_a_missing_package_raises_with_its_extra(use, package, extra, tmp_path, monkeypatch):
    if use is read:
        save(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"package {package}: pip install keras_attn\[{extra}\]"):
        use(tmp_path)


@pytest.mark.parametrize("bad", [11, -1, 400])
def test_eager_ids_out_of_range_raise(bad):
    ids = np.array([[3, bad]], "int32")
    for given in (ids, tensors(ids)):
        with pytest.raises(ValueError, match=rf"`tokens` must be in \[0, 11\), got {bad}"):
            check_ids("tokens", given, 11)


def test_ids_in_range_are_unchanged():
    np.testing.assert_array_equal(arrays(check_ids("ids", np.array([[0, 10]]), 11)), [[0, 10]])
    assert arrays(check_ids("ids", np.zeros((2, 0), "int32"), 11)).shape == (2, 0)


@pytest.mark.backends("tensorflow", "jax", reason="Keras compiles nothing on torch")
def test_compiled_code_clips_ids():
    function = compiled(lambda ids: check_ids("ids", ids, 11), xla=True)
    for dtype, far in (("int32", 900), ("int64", 2**31 + 5), ("uint8", 250)):
        if BACKEND != "jax" or dtype != "int64":  # JAX cuts it before
            found = arrays(function(tensors(np.array([3, 11, far], dtype))))
            np.testing.assert_array_equal(found, [3, 10, 10])
    np.testing.assert_array_equal(arrays(function(tensors(np.array([-5], "int32")))), [0])
