"""Files saved by earlier versions load and compute the same outputs."""

import pathlib
import tarfile

import keras
import numpy as np
import pytest
from keras import tree

import keras_attn  # noqa: F401  (registers what the files hold)
from tests.backend import BACKEND, arrays

ARCHIVES = sorted(pathlib.Path(__file__).parent.glob("*.tar.xz"))
TENSORFLOW_ONLY = ("bert_from_strings",)


FEW_ON_JAX = 5  # which compiles each: one of so many models; the others are slow there


def names() -> list[tuple[str, str]]:
    """The version and the name of every saved model that this backend can run."""
    found = []
    for archive in ARCHIVES:
        with tarfile.open(archive) as files:
            version = archive.name.removesuffix(".tar.xz")
            found += [(version, n) for n in sorted(files.getnames()) if n.endswith(".keras")]
    kept = [pair for pair in found if not pair[1].startswith(TENSORFLOW_ONLY)]
    return found if BACKEND == "tensorflow" else kept


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The unpacked files of each version."""
    unpacked = {}
    for archive in ARCHIVES:
        folder = tmp_path_factory.mktemp("saved")
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        unpacked[archive.name.removesuffix(".tar.xz")] = folder
    return unpacked


@pytest.mark.parametrize(
    ("version", "name"),
    [
        pytest.param(
            version,
            name,
            id=f"{version}-{name.removesuffix('.keras')}",
            marks=pytest.mark.slow_on("jax") if index % FEW_ON_JAX else (),
        )
        for index, (version, name) in enumerate(names())
    ],
)
def test_a_saved_file_loads_and_computes_the_same(version, name, folders):
    model = keras.models.load_model(folders[version] / name)
    with np.load(folders[version] / name.replace(".keras", ".npz")) as saved:
        stored = dict(saved)
    leaves = [stored[f"in_{i}"] for i in range(sum(key.startswith("in_") for key in stored))]
    if leaves[0].dtype.kind == "U":
        leaves = [keras.ops.convert_to_tensor(leaves[0].tolist())]
    inputs = tree.pack_sequence_as(model.input, leaves)
    outputs = tree.flatten(arrays(model(inputs)))
    assert len(outputs) == sum(key.startswith("out_") for key in stored) > 0
    # Version 0.1.0 combined a masked query with its zero context; now the output is zero there.
    masks = [leaf for leaf in leaves if leaf.dtype == bool and leaf.shape == outputs[0].shape[:2]]
    counts = masks[0] if "LuongAttention" in name else ...
    for index, output in enumerate(outputs):
        expected = stored[f"out_{index}"]
        np.testing.assert_allclose(output[counts], expected[counts], rtol=2e-5, atol=2e-5)


@pytest.mark.backends("tensorflow", reason="the file holds seeds of the backend")
@pytest.mark.parametrize("version", [v for v, name in names() if name == "trained.keras"])
def test_training_resumes_from_a_saved_checkpoint(version, folders):
    model = keras.models.load_model(folders[version] / "trained.keras")
    trained = arrays(model.weights)
    for weight in model.weights:
        weight.assign(keras.ops.zeros_like(weight))
    with np.load(folders[version] / "trained.npz") as saved:
        inputs = tree.pack_sequence_as(model.input, [saved["in_0"], saved["in_1"]])
        batch = (inputs, inputs["token_ids"])
    checkpoint = keras_attn.training.TrainingCheckpoint(folders[version] / "checkpoint")
    assert checkpoint.restore(model, batch) == 3
    assert int(model.optimizer.iterations) == 3
    for weight, value in zip(model.weights, trained, strict=True):
        np.testing.assert_array_equal(arrays(weight), value)


def test_cached_block_is_importable_with_a_deprecation_warning():
    with pytest.warns(DeprecationWarning, match="CachedBlock is deprecated: call a block with"):
        assert keras_attn.layers.CachedBlock.__name__ == "CachedBlock"
