import sys

import numpy as np
import pytest

from keras_attn import models, weights
from keras_attn.visualization import heatmap


def save(folder):
    weights.save(models.bert.encoder("bert_tiny", vocabulary_size=20), folder)


def read(folder):
    weights.load(folder)


def draw(folder):
    heatmap(folder / "it.png", np.eye(2), ["a", "b"], ["a", "b"])


@pytest.mark.parametrize(
    ("use", "package", "extra"),
    [(save, "safetensors", "weights"), (read, "safetensors", "weights"),
     (draw, "matplotlib", "visualization")],
)  # fmt: skip
def test_a_package_that_is_not_installed_is_named_with_the_extra_that_has_it(
    use, package, extra, tmp_path, monkeypatch
):
    if use is read:
        save(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"package {package}: pip install keras_attn\[{extra}\]"):
        use(tmp_path)
