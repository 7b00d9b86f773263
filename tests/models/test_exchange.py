"""Attention inside user layers and models, in keras-hub, and with LoRA or quantization."""

import operator

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_attn
from keras_attn import layers
from keras_attn.models import exchange
from tests.backend import arrays

B, T, D, N, H, V = 2, 7, 12, 3, 4, 23

BATCH = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
IDS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 0, 0]], "int32")
REAL = IDS > 0


def randomize(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(rng.normal(size=weight.shape) / 3)


def attention(name=None, **options):
    return kl.MultiHeadAttention(N, H, name=name, **options)


def helper(layer, x):
    return layer(query=x, value=x, use_causal_mask=True)


class InAttribute(kl.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = attention()

    def build(self, shape):
        self.inner.build(shape, shape)

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return self.inner(x, x, x)


class InList(kl.Layer):
    def __init__(self):
        super().__init__()
        self.inner = [attention(), (attention(),)]

    def call(self, x):
        return self.inner[1][0](self.inner[0](x, value=x), x)


class InDict(kl.Layer):
    def __init__(self):
        super().__init__()
        self.inner = {"a": attention(), "b": kl.GroupQueryAttention(H, 6, 3)}

    def call(self, x):
        return sum(layer(x, x) for layer in self.inner.values())


class InBuild(kl.Layer):
    def build(self, shape):
        self.inner = attention(dropout=0.3)
        self.inner.build(shape, shape)

    def call(self, x):
        outputs, scores = self.inner(x, x, return_attention_scores=True)
        return outputs + keras.ops.sum(scores)


class InHelperTwice(InAttribute):
    def call(self, x):
        return helper(self.inner, helper(self.inner, x))


class UnderCondition(InAttribute):
    def call(self, x, training=False):
        return x if training else helper(self.inner, x)


class InClosure(InAttribute):
    def __init__(self):
        super().__init__()
        inner = self.inner
        self.run = lambda x: inner(x, x)

    def call(self, x):
        return self.run(x)


KINDS = (InAttribute, InList, InDict, InBuild, InHelperTwice, UnderCondition, InClosure)
# How they are found does not depend on the backend: torch finds all of them fast.
ONLY_ON_TORCH = pytest.mark.slow_on("jax", "tensorflow")


def attending(model):
    found = [part for part in model._flatten_layers() if exchange.base_of(part)]
    assert found
    return found


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=ONLY_ON_TORCH)
        if kind in (InDict, InHelperTwice, InClosure)
        else kind
        for kind in KINDS
    ],
)
def test_attention_inside_user_layers_is_replaced(kind):
    inputs = keras.Input((T, D))
    model = keras.Model(inputs, kl.Dense(3)(kind()(inputs)))
    randomize(model)
    expected = arrays(model(BATCH))
    result = keras_attn.upgrade(model)
    assert result.model is model and not result.left
    parts = attending(model)
    assert len(parts) == len(result.changed_in_place) == len(result.replaced)
    assert all(type(part).__module__.startswith("keras_attn") for part in parts)
    np.testing.assert_allclose(arrays(model(BATCH)), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(model.predict(BATCH, verbose=0), expected, atol=1e-5, rtol=1e-5)
    result.undo()
    result.undo()  # which does nothing
    assert all(type(part).__module__.startswith("keras.src") for part in parts)
    np.testing.assert_array_equal(arrays(model(BATCH)), expected)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [kind() for kind in KINDS[:3]]
        self.head = kl.Dense(3)

    def call(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_subclassed_models_are_compared_where_a_batch_is_given():
    model = Subclassed()
    result = keras_attn.upgrade(model, BATCH)  # which builds it
    assert len(result.changed_in_place) == 5
    assert 0 <= result.difference < 1e-5
    result.undo()
    assert keras_attn.upgrade(model).difference is None


def test_a_compiled_model_is_traced_again_after_an_upgrade():
    inputs = keras.Input((T, D))
    model = keras.Model(inputs, kl.Dense(3)(InAttribute()(inputs)))
    model.compile("adam", "mse")
    model.fit(BATCH, np.zeros((B, T, 3)), verbose=0)
    optimizer, step = model.optimizer, int(model.optimizer.iterations)
    model.predict(BATCH, verbose=0)
    called = []
    result = keras_attn.upgrade(model)
    (inner,) = attending(model)
    inner.call = lambda *args, own=inner.call, **kwargs: called.append(1) or own(*args, **kwargs)
    model.predict(BATCH, verbose=0)
    assert called
    model.fit(BATCH, np.zeros((B, T, 3)), verbose=0)
    assert model.optimizer is optimizer and int(optimizer.iterations) == step + 1
    assert result.model is model


def test_shared_and_time_distributed_layers_are_replaced_once():
    inner = InAttribute()
    inputs = keras.Input((2, T, D))
    hidden = kl.TimeDistributed(inner)(inputs)
    # The inner layer is also called in the graph directly.
    first = hidden[:, 0]
    model = keras.Model(inputs, inner.inner(first, first))
    randomize(model)
    batch = np.random.default_rng(0).normal(size=(B, 2, T, D)).astype("float32")
    expected = arrays(model(batch))
    result = keras_attn.upgrade(model)
    assert result.model is model and len(result.changed_in_place) == 1
    assert type(inner.inner) is layers.MultiHeadAttention
    np.testing.assert_allclose(arrays(model(batch)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("frozen_heap")
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["lora", "int8", "frozen", "bfloat16"])
def test_lora_quantized_frozen_and_bfloat16_layers_are_replaced(kind, inside):
    if kind == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    inputs = keras.Input((T, D))
    custom, plain = InAttribute(), attention()
    model = keras.Model(inputs, custom(inputs) if inside else plain(inputs, inputs))
    randomize(model)
    layer = custom.inner if inside else plain
    if kind == "lora":
        layer.query_dense.enable_lora(2)
        layer.query_dense.lora_kernel_b.assign(np.ones(layer.query_dense.lora_kernel_b.shape))
    elif kind == "int8":
        for name in ("query", "key", "value", "output"):
            getattr(layer, f"{name}_dense").quantize("int8")
    elif kind == "frozen":
        layer.key_dense.trainable = False
    expected = arrays(keras.ops.cast(model(BATCH), "float32"))
    result = keras_attn.upgrade(model)
    assert len(result.replaced) == 1 and not result.left
    got = arrays(keras.ops.cast(result.model(BATCH), "float32"))
    tolerance = {"bfloat16": 2e-2}.get(kind, 1e-5)
    np.testing.assert_allclose(got, expected, atol=tolerance, rtol=tolerance)
    ours = result.model.trainable_weights
    assert [id(weight) for weight in ours] == [id(weight) for weight in model.trainable_weights]


@pytest.mark.parametrize("kind", ["lora", "int8"])
def test_an_upgraded_layer_with_lora_or_quantization_can_be_reloaded(kind, tmp_path):
    inputs = keras.Input((T, D))
    plain = attention(name="a")  # a name that is part of other names
    model = keras.Model(inputs, plain(inputs, inputs))
    randomize(model)
    if kind == "lora":
        plain.query_dense.enable_lora(2)
        plain.query_dense.lora_kernel_b.assign(np.ones(plain.query_dense.lora_kernel_b.shape))
    else:
        for name in ("query", "key", "value", "output"):
            getattr(plain, f"{name}_dense").quantize("int8")
    expected = arrays(model(BATCH))
    keras_attn.upgrade(model).model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.get_layer("a")) is layers.MultiHeadAttention
    np.testing.assert_allclose(arrays(again(BATCH)), expected, atol=1e-5, rtol=1e-5)


def test_an_upgraded_layer_keeps_autocast():
    inputs = keras.Input((T, D))
    plain = attention(name="plain", autocast=False)
    model = keras.Model(inputs, plain(inputs, inputs))
    assert keras_attn.upgrade(model).model.get_layer("plain").autocast is False


def test_a_user_layer_is_saved_as_a_layer_with_attention_of_keras(tmp_path):
    """Its own code makes its attention again when it is loaded."""
    inputs = keras.Input((T, D))
    model = keras.Model(inputs, kl.Dense(3)(InAttribute(name="custom")(inputs)))
    randomize(model)
    keras_attn.upgrade(model)
    expected = arrays(model(BATCH))
    model.save(tmp_path / "m.keras")
    own = {"InAttribute": InAttribute}
    again = keras.models.load_model(tmp_path / "m.keras", custom_objects=own)
    assert type(again.get_layer("custom").inner) is kl.MultiHeadAttention
    np.testing.assert_allclose(arrays(again(BATCH)), expected, atol=1e-5, rtol=1e-5)
    result = keras_attn.upgrade(again)
    assert len(result.changed_in_place) == 1
    np.testing.assert_allclose(arrays(again(BATCH)), expected, atol=1e-5, rtol=1e-5)


class Values(kl.MultiHeadAttention):
    """A subclass whose call doubles the query."""

    def call(self, query, value, key=None, **kwargs):
        return super().call(query * 2, value, key, **kwargs)


def test_a_subclass_keeps_its_class_and_its_code(tmp_path):
    inputs = keras.Input((T, D))
    model = keras.Model(inputs, Values(N, H, name="values")(inputs, value=inputs))
    randomize(model)
    expected = arrays(model(BATCH))
    result = keras_attn.upgrade(model)
    assert type(model.get_layer("values")) is Values and result.changed_in_place == ("values",)
    assert exchange.is_ours(model.get_layer("values"))
    np.testing.assert_allclose(arrays(model(BATCH)), expected, atol=1e-5, rtol=1e-5)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", custom_objects={"Values": Values})
    np.testing.assert_allclose(arrays(again(BATCH)), expected, atol=1e-5, rtol=1e-5)


# keras-hub


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub").models


SIZES = {"vocabulary_size": V, "num_layers": 2, "hidden_dim": D, "intermediate_dim": 17}


HUB_WINDOW = pytest.mark.backends(
    "tensorflow", reason="with fused attention, on JAX and torch, keras-hub's Qwen has no window"
)


def backbones(hub):
    grouped = {"num_query_heads": 6, "num_key_value_heads": N, **SIZES, "hidden_dim": 24}
    return {
        "bert": lambda: hub.BertBackbone(num_heads=N, **SIZES),
        "roberta": lambda: hub.RobertaBackbone(num_heads=N, **SIZES),
        "distil_bert": lambda: hub.DistilBertBackbone(num_heads=N, **SIZES),
        "gpt2": lambda: hub.GPT2Backbone(num_heads=N, **SIZES),
        "whisper": lambda: hub.WhisperBackbone(
            num_heads=N, num_mels=5, max_encoder_sequence_length=20, **SIZES
        ),
        "vit": lambda: hub.ViTBackbone((16, 16, 3), (8, 8), 2, N, D, 17),
        "llama": lambda: hub.LlamaBackbone(**grouped),
        "gemma": lambda: hub.GemmaBackbone(
            num_query_heads=4, num_key_value_heads=2, head_dim=6, **SIZES
        ),
        "gemma2": lambda: hub.GemmaBackbone(
            num_query_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            query_head_dim_normalize=False,
            use_post_ffw_norm=True,
            use_post_attention_norm=True,
            final_logit_soft_cap=30,
            attention_logit_soft_cap=0.5,
            sliding_window_size=3,
            use_sliding_window_attention=True,
            **SIZES,
        ),
        "mistral": lambda: hub.MistralBackbone(**grouped),
        "mixtral": lambda: hub.MixtralBackbone(num_experts=3, top_k=2, **grouped),
        "phi3": lambda: hub.Phi3Backbone(**grouped),
        "qwen": lambda: hub.QwenBackbone(
            use_sliding_window_attention=True, sliding_window_size=3, **grouped
        ),
        "qwen3": lambda: hub.Qwen3Backbone(head_dim=6, **grouped),
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("bert", 2),
        pytest.param("roberta", 2, marks=pytest.mark.slow),
        pytest.param("distil_bert", 2, marks=pytest.mark.slow),
        ("gpt2", 2),
        pytest.param("whisper", 6, marks=pytest.mark.slow),
        ("vit", 2),
        ("llama", 2),
        pytest.param("gemma", 2, marks=pytest.mark.slow),
        pytest.param("gemma2", 2, marks=pytest.mark.slow),
        *(
            pytest.param(name, 2, marks=pytest.mark.slow)
            for name in ("mistral", "mixtral", "phi3", "qwen3")
        ),
        pytest.param("qwen", 2, marks=[pytest.mark.slow, HUB_WINDOW]),
    ],
)
def test_keras_hub_backbones_are_upgraded(hub, name, count):
    model = backbones(hub)[name]()
    randomize(model)
    result = keras_attn.upgrade(model)
    assert result.model is model and not result.left
    assert len(result.changed_in_place) == count
    assert result.difference < 1e-5


@pytest.mark.filterwarnings("ignore:Layer .* unbuilt state", "ignore:Layer .* mask attached")
def test_t5_attention_is_left_with_a_reason(hub):
    model = hub.T5Backbone(num_heads=N, key_value_dim=H, **SIZES)
    result = keras_attn.upgrade(model)
    assert not result.replaced and len(result.left) == 6
    assert all("T5MultiHeadAttention" in reason for reason in result.left.values())


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("llama", "qwen3"))]
)
def test_a_task_keeps_its_class_and_generates_with_our_kernels(hub, name, monkeypatch):
    backbone = backbones(hub)[name]()
    kind = {"gpt2": hub.GPT2CausalLM, "llama": hub.LlamaCausalLM, "qwen3": hub.Qwen3CausalLM}[name]
    model = kind(backbone=backbone, preprocessor=None)
    randomize(model)
    prompt = {"token_ids": IDS, "padding_mask": REAL & (np.arange(T) < 4)}
    model.compile(sampler="greedy")
    expected = arrays(model.generate(prompt, stop_token_ids=None)["token_ids"])
    result = keras_attn.upgrade(model)
    assert result.model is model and type(model) is kind and model.backbone is backbone
    assert len(result.replaced) == 2 and not result.left
    calls, door = [], exchange.ops.attention
    monkeypatch.setattr(exchange.ops, "attention", lambda *a, **k: calls.append(1) or door(*a, **k))
    got = arrays(model.generate(prompt, stop_token_ids=None)["token_ids"])
    assert calls
    np.testing.assert_array_equal(got, expected)


def test_a_task_with_a_preprocessor_generates_strings_and_keeps_its_structure(hub):
    letters = "abcdef"
    names = ["<|endoftext|>", "Ġ", *letters, *(f"Ġ{letter}" for letter in letters)]
    tokenizer = hub.GPT2Tokenizer(
        {name: index for index, name in enumerate(names)}, [f"Ġ {letter}" for letter in letters]
    )
    preprocessor = hub.GPT2CausalLMPreprocessor(tokenizer, sequence_length=9)
    backbone = hub.GPT2Backbone(num_heads=N, **{**SIZES, "vocabulary_size": len(names)})
    model = hub.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)
    randomize(model)
    table = backbone.token_embedding.embeddings
    table.assign(table * (np.arange(len(names)) > 0)[:, None])  # seldom the end of a text
    model.compile(sampler="greedy")
    prompts = ["a b", "c"]
    expected = model.generate(prompts, stop_token_ids=None)
    structure = model.get_quantization_layer_structure("gptq")
    result = keras_attn.upgrade(model)
    assert result.model is model and model.preprocessor is preprocessor
    assert len(result.changed_in_place) == 2
    got = model.generate(prompts, stop_token_ids=None)
    assert got == expected
    assert all(
        text.startswith(p) and len(text) > len(p) for text, p in zip(got, prompts, strict=True)
    )
    after = model.get_quantization_layer_structure("gptq")
    assert structure["sequential_blocks"] and after.keys() == structure.keys()
    assert all(map(operator.is_, after["sequential_blocks"], structure["sequential_blocks"]))
    assert len(after["pre_block_layers"]) == len(structure["pre_block_layers"]) > 0


UNKNOWN = {
    "deberta": ("DebertaV3Backbone", "DisentangledSelfAttention", {"num_heads": N}),
    "falcon": ("FalconBackbone", "FalconAttention", {"num_attention_heads": N}),
    "bloom": ("BloomBackbone", "BloomAttention", {"num_heads": N}),
    "gpt_neo_x": ("GPTNeoXBackbone", "GPTNeoXAttention", {"num_heads": N}),
    "esm": ("ESMBackbone", "EsmSelfAttention", {"num_heads": N}),
}


@pytest.mark.filterwarnings("ignore:Layer .* unbuilt state", "ignore:Layer .* mask attached")
@pytest.mark.parametrize("name", UNKNOWN)
def test_attention_of_keras_hub_without_a_counterpart_is_left_with_a_reason(hub, name):
    kind, attention, heads = UNKNOWN[name]
    model = getattr(hub, kind)(**heads, **SIZES)
    result = keras_attn.upgrade(model)
    assert result.model is model and not result.replaced and len(result.left) == 2
    for reason in result.left.values():
        assert reason.startswith(f"{attention} has no counterpart: keep it, or write it with")
