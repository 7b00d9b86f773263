"""A model on a mesh of eight devices equals the model on one device.

JAX simulates eight devices on one CPU; see conftest.py. Expected values come from one device.
"""

import contextlib
import functools
import itertools
import re
import socket
from concurrent import futures

import keras
import numpy as np
import pytest

import keras_attn
from keras_attn import distribution, layers
from keras_attn.models.parts import SPLIT_WEIGHTS
from keras_attn.ops.cross_entropy import linear_cross_entropy
from keras_attn.training import TrainingCheckpoint
from tests.trainable import (
    BATCH,
    bert_pretraining,
    compiled,
    gpt_chunked_loss,
    gpt_classifier,
    packed_modern_bert,
    recurrent_translator,
    tagger,
    translator,
)

pytestmark = pytest.mark.backends("jax", reason="keras.distribution splits weights on JAX")


def placed(mesh, **options):
    layout = distribution.layout_map(device_mesh(mesh), **options)
    return layout, keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
    )


def device_mesh(shape, names=("batch", "model")):
    return keras.distribution.DeviceMesh(shape, list(names))


def trained(make):
    """The model after ten steps of Adam, and the losses."""
    keras.utils.set_random_seed(0)
    model, x, y = given = make()
    history = compiled(given).fit(x, y, batch_size=BATCH, epochs=10, shuffle=False, verbose=0)
    return model, history.history["loss"]


def assert_same(have, want):
    (model, losses), (alone, expected) = have, want
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for one, other in zip(model.weights, alone.weights, strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), atol=1e-4, err_msg=other.path)


def assert_split(model, mesh, fully_sharded=False):
    """Each device holds only its shard of each split weight and of its optimizer state."""
    split = [v for v in model.weights if any(re.fullmatch(p, v.path) for p, *_ in SPLIT_WEIGHTS)]
    assert split
    moments = {v.path.split("/", 1)[1]: v for v in model.optimizer.variables}
    for variable in split:
        both = fully_sharded and len(variable.shape) == 2
        share = variable.value.nbytes // (mesh[0] * mesh[1] if both else mesh[1])
        state = moments[variable.path.replace("/", "_") + "_momentum"]
        for held in (bytes_on(variable), bytes_on(state)):
            assert held == dict.fromkeys(range(8), share), variable.path


def bytes_on(variable):
    """How many bytes of a variable each device holds."""
    held = {}
    for shard in variable.value.addressable_shards:
        held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
    return held


CASES = [
    pytest.param((2, 4), gpt_chunked_loss, {"fully_sharded": True}),
    pytest.param((4, 2), bert_pretraining, {}, marks=pytest.mark.slow),
    pytest.param((2, 4), bert_pretraining, {"fully_sharded": True}, marks=pytest.mark.slow),
    pytest.param((4, 2), gpt_chunked_loss, {}, marks=pytest.mark.slow),
    pytest.param((4, 2), translator, {}, marks=pytest.mark.slow),
    pytest.param((2, 4), translator, {}, marks=pytest.mark.slow),
    pytest.param((4, 2), recurrent_translator, {}, marks=pytest.mark.slow),
    pytest.param((4, 2), tagger, {}, marks=pytest.mark.slow),
    pytest.param((4, 2), packed_modern_bert, {}, marks=pytest.mark.slow),
    pytest.param((8, 1), tagger, {"fully_sharded": True}, marks=pytest.mark.slow),
]


@pytest.fixture
def small_blocks(monkeypatch):
    """Chunked attention in three blocks of queries, and chunked cross entropy in three chunks."""
    monkeypatch.setattr("keras_attn.ops.kernels.schedule.rows_of_block", lambda *call: 2)
    monkeypatch.setattr(
        "keras_attn.layers.head.linear_cross_entropy.linear_cross_entropy",
        functools.partial(linear_cross_entropy, chunk_size=20),
    )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("mesh", "make", "options"), CASES)
def test_ten_steps_on_a_mesh_equal_ten_steps_on_one_device(mesh, make, options):
    alone = trained(make)
    layout, strategy = placed(mesh, **options)
    distribution.check(alone[0], layout)
    with strategy.scope():
        model, losses = trained(make)
    assert_same((model, losses), alone)
    assert_split(model, mesh, **options)


@pytest.mark.backends("torch", reason="keras.distribution on torch")
@pytest.mark.skipif(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16),
    reason="Keras has keras.distribution on torch from 3.16 on",
)
def test_a_model_trains_in_a_layout_on_torch():
    alone = trained(tagger)
    layout, strategy = placed((1, 1))
    distribution.check(alone[0], layout)
    with strategy.scope():
        assert_same(trained(tagger), alone)


def train_on(mesh, directory, epochs, rows=slice(None), **options):
    """Train epochs of five steps from the directory's last checkpoint; the model and the losses."""
    with placed(mesh, **options)[1].scope():
        keras.utils.set_random_seed(0)
        model, x, y = given = bert_pretraining()
        compiled(given)
        given = keras.tree.map_structure(lambda array: array[rows], (x, y))  # this process's
        checkpoint = TrainingCheckpoint(directory)
        step = checkpoint.restore(model, (x, y))
        assert step == 5 * epochs.start
        history = model.fit(
            (batch for batch in itertools.repeat(given)),  # Keras accepts generators
            steps_per_epoch=5,
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            callbacks=[checkpoint],
            shuffle=False,
            verbose=0,
        )
    return model, history.history["loss"]


def test_training_resumes_on_a_mesh_of_another_shape(tmp_path):
    for epoch, mesh in enumerate(((4, 2), (2, 4))):
        have = train_on(mesh, tmp_path, range(epoch, epoch + 1))
        assert_split(have[0], mesh)
    with np.load(tmp_path / "step-0000000005.npz") as file:
        assert any("[" in name for name in file.files)  # in parts
    alone, losses = trained(bert_pretraining)
    assert_same(have, (alone, np.reshape(losses, (2, 5)).mean(1)))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(4, 2), (2, 4)])
def test_training_resumes_exactly_on_the_same_mesh(mesh, tmp_path):
    straight = train_on(mesh, tmp_path / "straight", range(2))
    train_on(mesh, tmp_path / "resumed", range(1))
    resumed = train_on(mesh, tmp_path / "resumed", range(1, 2))
    assert resumed[1] == straight[1]
    have, want = (model.weights + model.optimizer.variables for model, _ in (resumed, straight))
    for one, other in zip(have, want, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other), err_msg=other.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "query", "options"),
    [
        ("Gemma", "decoder_block_0/attention/query/kernel", {"head_dim": 8}),
        ("Llama", "transformer_layer_0/self_attention/query/kernel", {}),
        ("Qwen", "transformer_layer_0/self_attention/query/kernel", {}),
    ],
)
def test_an_upgraded_model_of_keras_hub_keeps_its_layout(name, query, options):
    import keras_hub

    backbone = getattr(keras_hub.models, f"{name}Backbone")
    sizes = {"vocabulary_size": 24, "num_layers": 1, "num_query_heads": 8, "num_key_value_heads": 4}
    sizes |= {"hidden_dim": 16, "intermediate_dim": 32, **options}

    def shardings(model):
        return {v.path: v.value.sharding for v in model.weights}

    def trained():
        """The losses, and where the weights are before the upgrade, after it and after `fit`."""
        keras.utils.set_random_seed(0)
        model = backbone(**sizes)
        places = [shardings(model)]
        assert keras_attn.upgrade(model).replaced
        places.append(shardings(model))  # `fit` would put them back
        model.compile(keras.optimizers.SGD(0.1), "mse")
        x = {"token_ids": np.arange(48).reshape(8, 6) % 24, "padding_mask": np.ones((8, 6))}
        y = np.zeros((8, 6, 16))
        losses = model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]
        return losses, [*places, shardings(model)]

    expected, _ = trained()
    layout = backbone.get_layout_map(device_mesh((4, 2)))
    split = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    with split.scope():
        losses, (before, *later) = trained()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert tuple(before[query].spec) == ("model", "batch", None)
    for after in later:
        assert after.keys() == before.keys()
        assert all(after[path].is_equivalent_to(before[path], 3) for path in before)


def test_the_layout_splits_the_expected_weights():
    layout = placed((4, 2))[0]
    model = bert_pretraining()[0]
    assert {v.path: layout[v.path].axes for v in model.weights if layout[v.path]} == {
        "embedding/token/embeddings": ("model", None),
        **{
            f"block_0/self_attention/{name}/{kind}": axes
            for name in ("query", "key", "value")
            for kind, axes in (("kernel", (None, "model")), ("bias", ("model",)))
        },
        "block_0/self_attention/output/kernel": ("model", None),
        "block_0/feed_forward/hidden/kernel": (None, "model"),
        "block_0/feed_forward/hidden/bias": ("model",),
        "block_0/feed_forward/output/kernel": ("model", None),
        "head/masked_lm/bias": ("model",),
    }


def test_the_layout_splits_weights_of_other_models():
    layout = placed((4, 2))[0]
    for make, split, whole in (
        (
            translator,
            "decoder_block_0/cross_attention/value/kernel",
            "encoder_block_0/feed_forward/output/bias",
        ),
        (translator, "token_embedding/embeddings", "decoder_block_0/cross_attention/output/bias"),
        (packed_modern_bert, "block_0/feed_forward/gate/kernel", "masked_lm/transformation/kernel"),
        (gpt_classifier, "token_embedding/embeddings", "classifier/output/kernel"),
        (recurrent_translator, "source_embedding/embeddings", "readout/kernel"),
        (recurrent_translator, "logits/kernel", "bridge_0/kernel"),
    ):
        paths = [variable.path for variable in make()[0].weights]
        assert split in paths and layout[split] is not None
        assert whole in paths and layout[whole] is None


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            {"num_heads": 2},
            "heads must be divisible by the 4 devices of the mesh's axis 'model', "
            "got 2 in block_0/self_attention",
        ),
        ({"intermediate_dim": 30}, "feed-forward width must be .* got 30 in block_0/feed_forward/"),
        ({"vocabulary_size": 26}, "vocabulary must be .* got 26 in embedding/token/embeddings"),
    ],
)
def test_a_model_that_the_mesh_does_not_divide_raises(size, message):
    with pytest.raises(ValueError, match=message):
        distribution.check(bert_pretraining(**size)[0], placed((2, 4))[0])


def test_key_heads_and_widths_that_the_mesh_does_not_divide_raise():
    inputs = keras.Input((None, 12))
    attention = layers.MultiHeadSelfAttention(4, 8, num_kv_heads=2)
    model = keras.Model(inputs, attention(inputs))
    with pytest.raises(ValueError, match="key/value heads must be .* by the 4 devices .* got 2 in"):
        distribution.check(model, placed((2, 4))[0])
    with pytest.raises(
        ValueError, match="model width must be .* by the 8 devices .*'batch', got 12"
    ):
        distribution.check(model, placed((8, 1), fully_sharded=True)[0])


def test_a_model_without_weights_to_split_raises():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last")], name="plain")
    with pytest.raises(
        ValueError, match="`model` must have .* 'plain' with plain/last/kernel, plain/last/bias"
    ):
        distribution.check(model, placed((2, 4))[0])
    with pytest.raises(ValueError, match="`model` must be a built keras.Model, got None"):
        distribution.check(None, placed((2, 4))[0])
    with pytest.raises(ValueError, match="`layout` must be a LayoutMap, .*, got {}"):
        distribution.check(model, {})


def test_adapters_user_entries_and_other_layers_are_checked():
    """LoRA, an entry that the user adds, and a Keras layer whose kernels have three axes."""
    layout = distribution.layout_map(device_mesh((4, 2)))
    model = keras_attn.models.gpt.decoder("gpt_tiny", vocabulary_size=64, num_layers=1)
    model.get_layer("block_0").self_attention.query_projection.enable_lora(2)
    distribution.check(model, layout)
    layout["block_0/self_attention_norm/gamma"] = ("batch",)
    distribution.check(model, layout)
    inputs = keras.Input((3, 16))
    foreign = keras.layers.MultiHeadAttention(8, 3, name="self_attention")(inputs, inputs)
    distribution.check(keras.Model(inputs, foreign), layout)


def test_a_mesh_without_the_axes_raises():
    with pytest.raises(ValueError, match="axes 'batch' and 'model', got 'data', 'model'"):
        distribution.layout_map(device_mesh((4, 2), ("data", "model")))
    with pytest.raises(ValueError, match="must be two axes, got 'model' for both"):
        distribution.layout_map(device_mesh((4, 2)), batch_axis="model")
    layout = distribution.layout_map(device_mesh((4, 2), ("data", "model")), batch_axis="data")
    assert layout["block_0/feed_forward/output/kernel"].axes == ("model", None)


@pytest.fixture
def addresses():
    """Addresses of three workers on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return [f"127.0.0.1:{port}", "127.0.0.2:1", "127.0.0.3:1"]


def test_workers_wait_for_all_others(addresses):
    host, port = addresses[0].split(":")
    with futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(distribution.wait_for_workers, addresses, 0, 60)
        while not first.done():  # a connection that is not from a worker
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as other:
                other.sendall(b"GET / HTTP/1.1")
                break
        second = pool.submit(distribution.wait_for_workers, addresses, 1, 60)
        assert not futures.wait([first, second], timeout=0.3).done
        third = pool.submit(distribution.wait_for_workers, addresses, 2, 60)
        for worker in (first, second, third):
            worker.result()
    distribution.wait_for_workers(addresses[:1], 0)  # the port is free again


def errors_of(addresses, *started):
    """What these workers raise, of which some are missing."""
    with futures.ThreadPoolExecutor(len(started)) as pool:
        waiting = [pool.submit(distribution.wait_for_workers, addresses, i, 0.5) for i in started]
        return [str(worker.exception()) for worker in waiting]


def test_a_missing_worker_raises(addresses):
    """No worker names one that is there."""
    assert errors_of(addresses, 0, 1) == [
        "after 0.5 s, worker 0 still waits for worker 2 at 127.0.0.3:1",
        "after 0.5 s, worker 1 has reached worker 0, and still waits for worker 2 at 127.0.0.3:1",
    ]
    more = [*addresses, "127.0.0.4:1"]
    assert errors_of(more, 0, 1) == [
        "after 0.5 s, worker 0 still waits for worker 2 at 127.0.0.3:1, 3 at 127.0.0.4:1",
        "after 0.5 s, worker 1 has reached worker 0, and still waits for worker 2 at 127.0.0.3:1 "
        "or 3 at 127.0.0.4:1",
    ]
    missing = f"still waits for worker 0 at {addresses[0]}"
    assert errors_of(addresses, 1, 2) == [f"after 0.5 s, worker {i} {missing}" for i in (1, 2)]


def test_invalid_addresses_or_index_raise(addresses):
    with pytest.raises(ValueError, match="`addresses` must be 'host:port' each, got a, b:c"):
        distribution.wait_for_workers(["a", *addresses, "b:c"], 0)
    with pytest.raises(
        ValueError, match="`addresses` must be 'host:port' each, got c:65536, c:99999$"
    ):
        distribution.wait_for_workers([*addresses, "c:65536", "c:99999", "c:65535"], 0)
    with pytest.raises(ValueError, match="`addresses` must be 'host:port' each, got none"):
        distribution.wait_for_workers([], 0)
    with pytest.raises(ValueError, match="`index` must be one of the 3 addresses, got 3"):
        distribution.wait_for_workers(addresses, 3)
