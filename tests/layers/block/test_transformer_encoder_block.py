"""The encoder block against the paper in numpy and against torch's."""

import json

import keras
import numpy as np
import pytest

from keras_attn import layers
from tests import oracles
from tests.backend import arrays, assert_dropped, randomize, weights_of, within

B, T, D, N, F = 2, 5, 12, 3, 31
INPUTS = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
MASK = np.arange(T) < np.array([[5], [3]])


def block(**options):
    layer = layers.TransformerEncoderBlock(N, F, **options)
    layer(INPUTS)
    return randomize(layer)


@pytest.mark.parametrize("normalize_first", [False, True], ids=["post_norm", "pre_norm"])
def test_outputs_follow_the_equations_of_the_paper(normalize_first):
    layer = block(normalize_first=normalize_first, layer_norm_epsilon=1e-3)
    weights = weights_of(layer)

    def norm(x, name):
        parameters = within(weights, name)
        return oracles.layer_norm(x, parameters["gamma"], parameters["beta"], 1e-3)

    def attend(x):
        own = within(weights, "self_attention")
        return oracles.attention(x, x, x, own, N, MASK[:, None])[0]

    def feed(x):
        return oracles.feed_forward(x, within(weights, "feed_forward"), oracles.gelu)

    x = INPUTS.astype("float64")
    if normalize_first:
        x = x + attend(norm(x, "self_attention_norm"))
        x = x + feed(norm(x, "feed_forward_norm"))
    else:
        x = norm(x + attend(x), "self_attention_norm")
        x = norm(x + feed(x), "feed_forward_norm")
    np.testing.assert_allclose(arrays(layer(INPUTS, mask=MASK)), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_call_takes_its_arguments_by_position(remat):
    """As `tf.function(layer.call)` gives them."""
    layer = block(attention_dropout=0.0, dropout=1 - 1e-7, remat=remat)
    expected = arrays(layer(INPUTS, mask=MASK, training=True))
    inputs, mask = keras.ops.convert_to_tensor(INPUTS), keras.ops.convert_to_tensor(MASK)
    given = layer.call(inputs, mask, None, None, None, 0, False, True)
    np.testing.assert_allclose(arrays(given), expected, rtol=1e-5, atol=1e-5)
    assert abs(arrays(layer(INPUTS, mask=MASK)) - expected).max() > 1e-3


def test_each_sublayer_has_its_own_dropout_rate():
    almost_all = 1 - 1e-7  # the sublayer's output becomes zero
    rates = {"dropout": almost_all, "attention_output_dropout": 0.0}
    layer = block(**rates)
    kept = arrays(layer.self_attention_norm(INPUTS + arrays(layer.self_attention(INPUTS))))
    expected = arrays(layer.feed_forward_norm(kept))
    np.testing.assert_allclose(arrays(layer(INPUTS, training=True)), expected, 1e-5, 1e-5)
    layer = block(**dict(zip(rates, reversed(rates.values()), strict=True)))
    kept = arrays(layer.self_attention_norm(INPUTS))
    expected = arrays(layer.feed_forward_norm(kept + arrays(layer.feed_forward(kept))))
    np.testing.assert_allclose(arrays(layer(INPUTS, training=True)), expected, 1e-5, 1e-5)


@pytest.mark.parametrize("normalize_first", [False, True], ids=["post_norm", "pre_norm"])
def test_outputs_equal_torch_with_the_same_weights(normalize_first):
    import torch

    layer = block(normalize_first=normalize_first, activation="relu")
    weights = {name: torch.tensor(value) for name, value in weights_of(layer).items()}
    theirs = torch.nn.TransformerEncoderLayer(
        D, N, F, dropout=0.0, batch_first=True, norm_first=normalize_first
    )
    rows = [within(weights, f"self_attention/{name}") for name in ("query", "key", "value")]
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([row["kernel"].T for row in rows]),
            "self_attn.in_proj_bias": torch.cat([row["bias"] for row in rows]),
            "self_attn.out_proj.weight": weights["self_attention/output/kernel"].T,
            "self_attn.out_proj.bias": weights["self_attention/output/bias"],
            "linear1.weight": weights["feed_forward/hidden/kernel"].T,
            "linear1.bias": weights["feed_forward/hidden/bias"],
            "linear2.weight": weights["feed_forward/output/kernel"].T,
            "linear2.bias": weights["feed_forward/output/bias"],
            "norm1.weight": weights["self_attention_norm/gamma"],
            "norm1.bias": weights["self_attention_norm/beta"],
            "norm2.weight": weights["feed_forward_norm/gamma"],
            "norm2.bias": weights["feed_forward_norm/beta"],
        }
    )
    with torch.no_grad():
        expected = theirs.train()(  # in training mode torch takes its plain path
            torch.tensor(INPUTS), src_key_padding_mask=torch.tensor(~MASK)
        )
    found = arrays(layer(INPUTS, mask=MASK))
    np.testing.assert_allclose(found[MASK], expected.cpu().numpy()[MASK], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["self_attention", "feed_forward"])
def test_training_drops_the_output_of_each_sublayer(name):
    """With all other weights zero, a sublayer adds its output bias of one to the inputs."""
    layer = block(dropout=0.3, normalize_first=True, seed=1)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:
            value = 1.0 if weight.path.endswith(f"{name}/output/bias") else 0.0
            weight.assign(np.full(weight.shape, value))
    trained = arrays(layer(INPUTS, training=True)) - INPUTS
    assert_dropped(trained, arrays(layer(INPUTS)) - INPUTS, 0.3)


def test_invalid_arguments_raise():
    with pytest.raises(
        ValueError, match="`norm` must be one of layer, layer_no_bias, rms, got 'batch'"
    ):
        layers.TransformerEncoderBlock(N, F, norm="batch")
    with pytest.raises(ValueError, match="`intermediate_dim` must be a positive integer, got 0"):
        layers.TransformerEncoderBlock(N, 0)
    with pytest.raises(ValueError, match=r"`dropout` must be in \[0, 1\), got 1.5"):
        layers.TransformerEncoderBlock(N, F, dropout=1.5)
    with pytest.raises(ValueError, match=r"`attention_dropout` must be in \[0, 1\), got 1.5"):
        layers.TransformerEncoderBlock(N, F, attention_dropout=1.5)


def test_attention_and_feed_forward_options_make_a_qwen3_layer():
    """Grouped heads without biases, query and key norms, a gated feed-forward network."""
    torch = pytest.importorskip("torch")
    from transformers import Qwen3Config, Qwen3Model

    sizes = {"hidden_size": D, "intermediate_size": F, "head_dim": 4, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 6, "num_key_value_heads": 3, "vocab_size": 11}
    theirs = Qwen3Model(Qwen3Config(**sizes, rope_theta=100.0, rms_norm_eps=1e-3)).eval()
    draw = np.random.default_rng(1)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.tensor(draw.normal(size=weight.shape)))
        inputs = torch.tensor(INPUTS)
        expected = theirs.layers[0](
            inputs,
            attention_mask=torch.full((T, T), -torch.inf).triu(1)[None, None],
            position_embeddings=theirs.rotary_emb(inputs, torch.arange(T)[None]),
        )
    layer = layers.TransformerEncoderBlock(
        6,
        F,
        activation="silu",
        norm="rms",
        layer_norm_epsilon=1e-3,
        normalize_first=True,
        causal=True,
        position=layers.RotaryEmbedding(100.0),
        attention_options={
            "key_dim": 4,
            "num_kv_heads": 3,
            "use_bias": False,
            "query_key_norm": "rms",
            "norm_epsilon": 1e-3,
        },
        feed_forward_options={"gated": True, "use_bias": False},
    )
    layer(INPUTS)
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    names |= {"query_norm": "q_norm", "key_norm": "k_norm"}
    own = {f"self_attention/{ours}": f"self_attn.{name}" for ours, name in names.items()}
    names = {"gate": "gate_proj", "hidden": "up_proj", "output": "down_proj"}
    own |= {f"feed_forward/{ours}": f"mlp.{name}" for ours, name in names.items()}
    own |= {"self_attention_norm": "input_layernorm"}
    own |= {"feed_forward_norm": "post_attention_layernorm"}
    for weight in layer.weights:
        place = weight.path.split("/", 1)[1].rsplit("/", 1)[0]
        weight.assign(theirs.layers[0].get_submodule(own[place]).weight.detach().numpy().T)
    outputs = arrays(layer(INPUTS))
    np.testing.assert_allclose(outputs, arrays(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_options": {"dropout": 0.1}}, "`attention_options` must be one of key_dim, .*"),
        ({"attention_options": {"gated": True}}, "`attention_options` .* got 'gated'"),
        ({"feed_forward_options": {"name": "x"}}, "`feed_forward_options` .* got 'name'"),
        (
            {"feed_forward_options": [1]},
            r"`feed_forward_options` must be a dict or None, got \[1\]",
        ),
        ({"attention_options": {"norm_epsilon": -1.0}}, "`norm_epsilon` must be positive, got -1"),
    ],
)
def test_an_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        layers.TransformerEncoderBlock(N, F, **options)


@pytest.mark.parametrize("ones", [keras.initializers.Ones, keras.initializers.Ones(), "ones"])
def test_options_that_are_objects_are_saved(ones):
    layer = layers.TransformerEncoderBlock(N, F, attention_options={"bias_initializer": ones})
    again = layers.TransformerEncoderBlock.from_config(json.loads(json.dumps(layer.get_config())))
    assert isinstance(again.self_attention.bias_initializer, keras.initializers.Ones)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_first": True, "window": 3},
        {"causal": True, "position": layers.RotaryEmbedding()},
        {"position": layers.ALiBi(N)},
    ],
    ids=["post_norm", "pre_norm_window", "causal_rotary", "alibi"],
)
@pytest.mark.parametrize("name", ["mask", "sequence_ids", "attention_mask"])
def test_the_first_position_alone_is_that_of_all(options, name):
    layer = block(**options)
    dense = np.ones((B, T, T), bool)
    dense[:, 0, 1] = False  # the first query's row is like no other
    ids = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    masks = {name: {"mask": MASK, "sequence_ids": ids, "attention_mask": dense}[name]}
    whole, weights = layer(INPUTS, **masks, return_attention_scores=True)
    first, first_weights = layer(INPUTS, **masks, return_attention_scores=True, first_only=True)
    assert first.shape == (B, 1, D)
    np.testing.assert_allclose(arrays(first), arrays(whole)[:, :1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(arrays(first_weights), arrays(weights)[:, :, :1], atol=1e-6)
    spec = layer.compute_output_spec(keras.KerasTensor((None, None, D)), first_only=True)
    assert spec.shape == (None, 1, D)


@pytest.mark.parametrize("name", ["cache", "positions"])
def test_the_first_position_alone_excludes_a_cache_and_positions(name):
    layer = block(causal=True, position=layers.RotaryEmbedding())
    given = {
        "cache": {part: np.zeros((B, N, T, D // N), "float32") for part in ("key", "value")},
        "positions": np.arange(T),
    }
    with pytest.raises(ValueError, match="`first_only` must be False with a cache or"):
        layer(INPUTS, first_only=True, **{name: given[name]})


def test_the_first_position_of_none_raises():
    with pytest.raises(ValueError, match="`inputs` must have at least one position, got shape"):
        block()(INPUTS[:, :0], first_only=True)
