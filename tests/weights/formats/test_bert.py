"""Parity with transformers for every head, and weight names of older files."""

import keras
import numpy as np
import pytest
import safetensors.numpy
import torch

from keras_attn import weights
from keras_attn.models.packing import packed

TOLERANCE = 1e-4  # absolute, float32


def ours(model, inputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, training=False))


def close(actual, expected, where=...):
    np.testing.assert_allclose(actual[where], expected.numpy()[where], atol=TOLERANCE, rtol=0)


def rewrite(directory, change):
    """Save the arrays again, under other names or without some."""
    file = directory / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)


def test_encoder_outputs_equal_transformers(saved, inputs, run_theirs):
    model, directory = saved("BertModel")
    loaded = weights.load(directory, hidden_states=True)
    actual, expected = ours(loaded.model, inputs), run_theirs(model, inputs)
    seen = inputs["padding_mask"]
    close(actual["sequence_output"], expected.last_hidden_state, seen)
    close(actual["pooled_output"], expected.pooler_output)
    assert len(actual["hidden_states"]) == 3
    assert (loaded.skipped, loaded.initialized, loaded.vocabulary) == ((), (), None)


@pytest.mark.parametrize(
    ("architecture", "task", "shape"),
    [
        ("BertForSequenceClassification", "classifier", (2, 5)),
        ("BertForTokenClassification", "tagger", (2, 7, 5)),
        ("BertForNextSentencePrediction", "next_sentence", (2, 2)),
        ("RobertaForTokenClassification", "tagger", (2, 7, 5)),
    ],
)
def test_logits_equal_transformers(architecture, task, shape, saved, inputs, run_theirs):
    sizes = {"num_labels": 5} if "Next" not in architecture else {}
    if architecture.startswith("Roberta"):
        sizes |= {"type_vocab_size": 2, "pad_token_id": 1}
        inputs["token_ids"][inputs["token_ids"] == 1] = 2
        inputs["token_ids"][~inputs["padding_mask"]] = 1
    model, directory = saved(architecture, **sizes)
    loaded = weights.load(directory, task)
    actual, expected = ours(loaded.model, inputs), run_theirs(model, inputs).logits
    assert actual.shape == shape
    close(actual, expected, inputs["padding_mask"] if task == "tagger" else ...)
    assert (loaded.skipped, loaded.initialized) == ((), ())


def test_regressor_outputs_equal_transformers(saved, inputs, run_theirs):
    model, directory = saved("BertForSequenceClassification", num_labels=1)
    loaded = weights.load(directory, "regressor")
    close(ours(loaded.model, inputs), run_theirs(model, inputs).logits)


@pytest.mark.slow_on("tensorflow")
def test_training_losses_equal_transformers_at_every_step(saved, inputs):
    """Eight steps of Adam: a difference in any gradient would change the losses.

    Keras adds Adam's epsilon before the bias correction, torch after it: here it is negligible.
    """
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, directory = saved("BertForSequenceClassification", num_labels=5, **none)
    loaded = weights.load(directory, "classifier", dropout=0.0).model
    labels = np.array([3, 1])
    loaded.compile(
        keras.optimizers.AdamW(1e-2, weight_decay=0.01, epsilon=1e-12, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    actual = []
    for _ in range(8):
        actual.append(loaded.train_on_batch(inputs, labels))
        loaded.reset_metrics()

    theirs = torch.optim.AdamW(model.train().parameters(), 1e-2, weight_decay=0.01, eps=1e-12)
    expected = []
    for _ in range(8):
        loss = model(
            torch.tensor(inputs["token_ids"]),
            token_type_ids=torch.tensor(inputs["segment_ids"]),
            attention_mask=torch.tensor(inputs["padding_mask"]),
            labels=torch.tensor(labels),
        ).loss
        theirs.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        theirs.step()
        expected.append(loss.item())
    assert expected[-1] < expected[0] - 0.3
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


def test_span_logits_equal_transformers(saved, inputs, run_theirs):
    model, directory = saved("BertForQuestionAnswering")
    actual = ours(weights.load(directory, "span").model, inputs)
    expected = run_theirs(model, inputs)
    allowed = inputs["padding_mask"] & (inputs["segment_ids"] == 1)
    allowed[:, 0] = True
    close(actual["start"], expected.start_logits, allowed)
    close(actual["end"], expected.end_logits, allowed)
    assert (actual["start"][~allowed] == -30000).all()


def test_multiple_choice_logits_equal_transformers(saved, inputs, run_theirs):
    model, directory = saved("BertForMultipleChoice")
    choices = {key: np.stack([value, value[:, ::-1], value], 1) for key, value in inputs.items()}
    choices["token_ids"][:, 2] = choices["token_ids"][:, 2] % 7 + 1
    actual = ours(weights.load(directory, "multiple_choice", num_choices=3).model, choices)
    assert actual.shape == (2, 3)
    close(actual, run_theirs(model, choices).logits)


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "RobertaForMaskedLM"])
def test_masked_lm_logits_equal_transformers(architecture, saved, inputs, run_theirs):
    sizes = {"type_vocab_size": 2, "pad_token_id": 1} if architecture[0] == "R" else {}
    inputs["token_ids"] = np.maximum(inputs["token_ids"], 2)
    if architecture[0] == "R":
        inputs["token_ids"][~inputs["padding_mask"]] = 1
    model, directory = saved(architecture, **sizes)
    positions = np.array([[1, 4, 6], [0, 2, 3]])
    actual = ours(
        weights.load(directory, "masked_lm").model, {**inputs, "masked_positions": positions}
    )
    expected = run_theirs(model, inputs).logits.numpy()
    np.testing.assert_allclose(
        actual, np.take_along_axis(expected, positions[..., None], 1), atol=TOLERANCE, rtol=0
    )


def test_pretraining_logits_equal_transformers(saved, inputs, run_theirs):
    model, directory = saved("BertForPreTraining")
    loaded = weights.load(directory, "pretraining")
    positions = np.array([[1, 4, 6], [0, 2, 3]])
    actual, expected = (
        ours(loaded.model, {**inputs, "masked_positions": positions}),
        run_theirs(model, inputs),
    )
    np.testing.assert_allclose(
        actual["masked_lm"],
        np.take_along_axis(expected.prediction_logits.numpy(), positions[..., None], 1),
        atol=TOLERANCE,
        rtol=0,
    )
    close(
        actual["next_sentence"], expected.seq_relationship_logits
    )  # class 0 means that the second sentence follows
    assert (loaded.skipped, loaded.initialized) == ((), ())


@pytest.mark.parametrize(
    ("activation", "other"), [("gelu_new", "gelu"), ("gelu_pytorch_tanh", "gelu"), ("relu", "gelu")]
)
def test_outputs_equal_transformers_for_each_activation(
    activation, other, saved, inputs, run_theirs
):
    model, directory = saved("BertForMaskedLM", hidden_act=activation)
    loaded = weights.load(directory, "masked_lm")
    actual = ours(loaded.model, {**inputs, "masked_positions": np.arange(7)[None].repeat(2, 0)})
    close(actual, run_theirs(model, inputs).logits, inputs["padding_mask"])


def test_distilbert_logits_equal_transformers(saved, inputs, run_theirs):
    inputs["segment_ids"] = 0 * inputs["segment_ids"]
    sizes = {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 19}
    model, directory = saved("DistilBertForTokenClassification", num_labels=5, **sizes)
    loaded = weights.load(directory, "tagger")
    expected = run_theirs(model, inputs, token_type_ids=None).logits
    close(ours(loaded.model, inputs), expected, inputs["padding_mask"])

    _, directory = saved("DistilBertForSequenceClassification", num_labels=5, **sizes)
    loaded = weights.load(directory)
    assert set(loaded.skipped) == {
        f"{layer}.{weight}"
        for layer in ("pre_classifier", "classifier")
        for weight in ("weight", "bias")
    }
    assert list(loaded.model.output) == ["sequence_output"]


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta"])
def test_span_logits_without_segments_equal_transformers(kind, saved, inputs, run_theirs):
    """Segment 1 marks the context; without it any position except padding may be the answer."""
    inputs["token_ids"] = np.where(inputs["padding_mask"], np.maximum(inputs["token_ids"], 2), 1)
    sizes = {"DistilBert": {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 19}}
    options = sizes.get(kind, {"type_vocab_size": 1, "pad_token_id": 1})
    model, directory = saved(f"{kind}ForQuestionAnswering", **options)
    loaded = weights.load(directory, "span")
    expected = run_theirs(model, inputs, token_type_ids=None)
    for marked in (True, False):
        segments = inputs["segment_ids"] if marked else 0 * inputs["segment_ids"]
        actual = ours(loaded.model, {**inputs, "segment_ids": segments})
        allowed = inputs["padding_mask"] & (segments == int(marked))
        allowed[:, 0] = True
        close(actual["start"], expected.start_logits, allowed)
        close(actual["end"], expected.end_logits, allowed)
        assert (actual["start"][~allowed] == -30000).all()
        assert allowed[0, 4]


def test_an_unused_pooler_of_an_old_roberta_classifier_is_skipped(saved, inputs, run_theirs):
    """Old files of this class also hold the encoder's pooler, which the class does not use."""
    inputs["token_ids"] = np.where(inputs["padding_mask"], np.maximum(inputs["token_ids"], 2), 1)
    model, directory = saved(
        "RobertaForSequenceClassification", num_labels=5, type_vocab_size=2, pad_token_id=1
    )
    kernel, bias = np.eye(12, dtype="float32"), np.zeros(12, "float32")
    pooler = {"roberta.pooler.dense.weight": kernel, "roberta.pooler.dense.bias": bias}
    rewrite(directory, lambda arrays: {**arrays, **pooler})
    loaded = weights.load(directory, "classifier")
    close(ours(loaded.model, inputs), run_theirs(model, inputs).logits)
    assert set(loaded.skipped) == set(pooler)
    encoder = weights.load(directory).model
    np.testing.assert_array_equal(encoder.get_layer("pooler").kernel, kernel)


@pytest.mark.parametrize(
    ("architecture", "task", "options", "rate"),
    [
        ("BertModel", "classifier", {"classifier_dropout": 0.3}, 0.3),
        ("BertModel", "tagger", {"hidden_dropout_prob": 0.4}, 0.4),
        ("BertModel", "span", {"hidden_dropout_prob": 0.4, "classifier_dropout": 0.3}, 0.0),
        ("RobertaModel", "multiple_choice", {"classifier_dropout": 0.3}, 0.1),
        ("DistilBertModel", "classifier", {}, 0.2),
        ("DistilBertModel", "span", {"qa_dropout": 0.3}, 0.3),
    ],
)
def test_a_new_head_has_the_dropout_rate_of_the_configuration(
    architecture, task, options, rate, saved
):
    if architecture == "DistilBertModel":
        options = {**options, "dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 19}
    _, directory = saved(architecture, **options)
    needed = {"num_classes": 5} if task in ("classifier", "tagger") else {}
    assert weights.load(directory, task, **needed).model.get_layer(task).dropout == rate
    if task == "classifier":
        model = weights.load(directory, task, **needed, dropout=0.7).model
        assert model.get_layer(task).dropout == 0.7


def test_a_roberta_classifier_has_dropout_before_its_pooler(saved):
    """RobertaClassificationHead of transformers has dropout before and after its dense layer."""
    _, directory = saved("RobertaForSequenceClassification", num_labels=5, classifier_dropout=0.3)
    model = weights.load(directory, "classifier").model
    assert model.get_layer("pooler_dropout").rate == model.get_layer("classifier").dropout == 0.3
    assert packed(model).output.shape == (None, None, 5)


def test_an_untied_output_matrix_raises_only_for_the_masked_lm(saved):
    _, directory = saved("BertForMaskedLM", tie_word_embeddings=False)
    names = {"cls.predictions.bias", "cls.predictions.decoder.weight"}
    assert names <= set(weights.load(directory).skipped)
    with pytest.raises(ValueError, match="`tie_word_embeddings` must be True, got False"):
        weights.load(directory, "masked_lm")


def test_roberta_classifier_logits_equal_transformers(saved, inputs, run_theirs):
    inputs["token_ids"] = np.where(inputs["padding_mask"], np.maximum(inputs["token_ids"], 2), 1)
    model, directory = saved(
        "RobertaForSequenceClassification", num_labels=5, type_vocab_size=2, pad_token_id=1
    )
    close(
        ours(weights.load(directory, "classifier").model, inputs), run_theirs(model, inputs).logits
    )


@pytest.mark.parametrize("prefix", [False, True])
def test_old_weight_names_are_read(prefix, saved, inputs, run_theirs):
    """Older files use gamma and beta, may omit the prefix `bert.`, and repeat tied weights."""
    model, directory = saved("BertForPreTraining")

    def old(arrays):
        matrix = arrays["bert.embeddings.word_embeddings.weight"]
        arrays["cls.predictions.decoder.weight"] = matrix.copy()
        arrays["cls.predictions.decoder.bias"] = arrays["cls.predictions.bias"].copy()
        arrays["bert.embeddings.position_ids"] = np.arange(97)[None]
        names = {
            name: name.replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta")
            .removeprefix("" if prefix else "bert.")
            for name in arrays
        }
        return {names[name]: array for name, array in arrays.items()}

    rewrite(directory, old)
    loaded = weights.load(directory, "next_sentence")
    close(ours(loaded.model, inputs), run_theirs(model, inputs).seq_relationship_logits)
    assert set(loaded.skipped) == {
        f"{'bert.' if prefix else ''}embeddings.position_ids",
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.gamma",
        "cls.predictions.transform.LayerNorm.beta",
    }


def test_a_head_of_another_task_with_the_same_name_is_skipped(saved):
    _, directory = saved("BertForTokenClassification", num_labels=5)
    loaded = weights.load(directory, "classifier", num_classes=5)
    assert loaded.skipped == ("classifier.bias", "classifier.weight")
    assert loaded.initialized == (
        "pooler/kernel",
        "pooler/bias",
        "classifier/output/kernel",
        "classifier/output/bias",
    )


def test_an_encoder_without_a_pooler_has_no_pooled_output(saved):
    _, directory = saved("BertForTokenClassification")
    loaded = weights.load(directory)
    assert list(loaded.model.output) == ["sequence_output"]
    assert loaded.initialized == ()


def test_sharded_files_are_read(saved, inputs, run_theirs):
    model, directory = saved("BertModel")
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="3KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    actual = ours(weights.load(directory).model, inputs)
    close(actual["pooled_output"], run_theirs(model, inputs).pooler_output)
