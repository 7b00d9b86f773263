"""ModernBERT: its sizes, masks, padding, saving, and task models.

tests/weights compares its outputs with transformers.
"""

import keras
import numpy as np
import pytest

from keras_attn import layers, models
from tests.backend import arrays, computed, randomize

B, T, V, L = 2, 11, 23, 4
SIZE = models.sizes.ModernBertSize(L, 12, 3, 7, vocabulary_size=V, window=3)
RNG = np.random.default_rng(0)
INPUTS = {
    "token_ids": RNG.integers(0, V, (B, T)).astype("int32"),
    "segment_ids": np.zeros((B, T), "int32"),
    "padding_mask": np.arange(T) < np.array([[T], [8]]),
}


def encoder(**changes):
    return randomize(models.modern_bert.encoder(SIZE, **changes))


@pytest.mark.backends("tensorflow", reason="shapes are the same everywhere")
@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("modern_bert_base", 149_014_272),
        pytest.param("modern_bert_large", 394_781_696, marks=pytest.mark.slow),
    ],
)
@pytest.mark.backends("torch", reason="shapes are the same on every backend")
def test_sizes_have_the_parameter_counts_of_transformers(size, count):
    """The counts of `ModernBertModel` for answerdotai/ModernBERT-base and -large."""
    with keras.StatelessScope():  # weights without memory
        model = models.modern_bert.encoder(size)
        found = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert found == count


def test_global_and_local_blocks_alternate():
    blocks = models.parts.of(encoder(num_layers=5, global_every=4)).encoder.blocks
    assert [block.window for block in blocks] == [None, 3, 3, 3, None]
    assert [block.position.max_wavelength for block in blocks] == [160e3, 1e4, 1e4, 1e4, 160e3]
    assert [block.attention_norm for block in blocks] == [False, True, True, True, True]


def test_a_local_block_attends_within_its_window():
    model = encoder(num_layers=2)  # the second is local
    block = models.parts.of(model).encoder.blocks[1]
    hidden = RNG.normal(size=(1, T, 12)).astype("float32")
    changed = hidden.copy()
    changed[:, 5, 0] += 1
    moved = np.abs(arrays(block(changed)) - arrays(block(hidden))).max(-1)[0] > 1e-5
    assert np.flatnonzero(moved).tolist() == [3, 4, 5, 6, 7]


TASKS = {
    "classifier": (lambda encoder: models.bert_tasks.classifier(encoder, 5), (B, 5)),
    "mean": (lambda encoder: models.bert_tasks.regressor(encoder, pooling="mean"), (B, 1)),
    "tagger": (lambda encoder: models.bert_tasks.tagger(encoder, 5), (B, T, 5)),
    "span": (models.bert_tasks.span, (B, T)),
    "masked_lm": (models.bert_tasks.masked_lm, (B, 2, V)),
}


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(
            task,
            marks=() if task in ("masked_lm", "span") else pytest.mark.slow_on("tensorflow"),
        )
        for task in TASKS
    ],
)
def test_task_models_ignore_padding_and_can_be_reloaded(task, tmp_path):
    build, shape = TASKS[task]
    bare = encoder(hidden_states=True)
    model = randomize(build(bare))

    def run(model, more=0):
        inputs = {k: np.pad(v, [(0, 0), (0, more)]) for k, v in INPUTS.items()}
        if task == "masked_lm":
            inputs["masked_positions"] = np.array([[1, 10], [0, 3]], "int32")
        outputs = computed(model, {key: inputs[key] for key in model.input})
        return outputs["start"] if task == "span" else outputs

    outputs = run(model)
    assert outputs.shape == shape
    seen = INPUTS["padding_mask"] if shape[1] == T else ...
    padded = run(model, more=4)
    padded = padded[:, :T] if shape[1] == T else padded
    np.testing.assert_allclose(padded[seen], outputs[seen], rtol=1e-4, atol=1e-5)

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(run(again), outputs, rtol=1e-6, atol=1e-6)
    found = models.parts.of(again)
    assert [block.name for block in found.encoder.blocks] == [f"block_{i}" for i in range(L)]
    assert found.encoder.norm.name == "encoder_norm" and found.decoder is found.pooler is None
    assert isinstance(found.head, (layers.MaskedLMHead, layers.SpanHead, layers.ClassificationHead))
    assert len(found.transformation) == (0 if task == "masked_lm" else 2)
    inside = arrays(models.bert.encoder_of(again, hidden_states=True)(INPUTS))
    expected = arrays(bare(INPUTS))
    assert inside.keys() == expected.keys() == {"sequence_output", "hidden_states"}
    for state, want in zip(inside["hidden_states"], expected["hidden_states"], strict=True):
        np.testing.assert_allclose(state, want, rtol=1e-5, atol=1e-5)


def test_pretraining_heads_without_a_pooler_raise():
    with pytest.raises(ValueError, match="output 'pooled_output', got sequence_output"):
        models.bert.with_pretraining_heads(encoder())


@pytest.mark.parametrize(
    "dropped",
    ["embedding", "attention", "feed_forward"],
)
def test_each_dropout_rate_is_applied_alone(dropped):
    still, moved = encoder(), encoder(**{f"{dropped}_dropout": 0.5})
    for model, differs in ((still, False), (moved, True)):
        trained, rest = (
            arrays(model(INPUTS, training=t))["sequence_output"] for t in (True, False)
        )
        assert np.allclose(trained, rest, atol=1e-5) != differs


def test_mixed_precision_outputs_are_close_to_float32():
    half = encoder(dtype="mixed_bfloat16")
    full = encoder()
    full.set_weights(half.get_weights())
    outputs = half(INPUTS)["sequence_output"]
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    expected = arrays(full(INPUTS))["sequence_output"]
    np.testing.assert_allclose(arrays(outputs).astype("float32"), expected, atol=0.1)
