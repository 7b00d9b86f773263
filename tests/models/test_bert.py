"""BERT against transformers' with the same random weights, and its sizes against the paper."""

import keras
import numpy as np
import pytest

from keras_attn import models
from tests.backend import arrays, computed

B, T, P, V, D, F, N, L = 2, 7, 3, 23, 12, 31, 3, 2
SIZE = models.sizes.BertSize(L, D, N, F, vocabulary_size=V, max_length=11)
RNG = np.random.default_rng(0)
INPUTS = {
    "token_ids": RNG.integers(0, V, (B, T)).astype("int32"),
    "segment_ids": (np.arange(T) >= np.array([[3], [4]])).astype("int32"),
    "padding_mask": np.arange(T) < np.array([[7], [5]]),
}
POSITIONS = np.array([[1, 4, 6], [0, 2, 3]], "int32")
OURS_TO_THEIRS = {
    "embedding/token/embeddings": "bert.embeddings.word_embeddings.weight",
    "embedding/segment/embeddings": "bert.embeddings.token_type_embeddings.weight",
    "embedding/position/table": "bert.embeddings.position_embeddings.weight",
    "embedding/norm/gamma": "bert.embeddings.LayerNorm.weight",
    "embedding/norm/beta": "bert.embeddings.LayerNorm.bias",
    "pooler/kernel": "bert.pooler.dense.weight",
    "pooler/bias": "bert.pooler.dense.bias",
    "head/masked_lm/transformation/kernel": "cls.predictions.transform.dense.weight",
    "head/masked_lm/transformation/bias": "cls.predictions.transform.dense.bias",
    "head/masked_lm/norm/gamma": "cls.predictions.transform.LayerNorm.weight",
    "head/masked_lm/norm/beta": "cls.predictions.transform.LayerNorm.bias",
    "head/masked_lm/bias": "cls.predictions.bias",
    "head/next_sentence/kernel": "cls.seq_relationship.weight",
    "head/next_sentence/bias": "cls.seq_relationship.bias",
}
BLOCK_TO_THEIRS = {
    "self_attention/query": "attention.self.query",
    "self_attention/key": "attention.self.key",
    "self_attention/value": "attention.self.value",
    "self_attention/output": "attention.output.dense",
    "self_attention_norm": "attention.output.LayerNorm",
    "feed_forward/hidden": "intermediate.dense",
    "feed_forward/output": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
PARTS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def their_name(path):
    if path in OURS_TO_THEIRS:
        return OURS_TO_THEIRS[path]
    block, *middle, part = path.split("/")
    index = block.removeprefix("block_")
    return f"bert.encoder.layer.{index}.{BLOCK_TO_THEIRS['/'.join(middle)]}.{PARTS[part]}"


@pytest.fixture(scope="module")
def both_models():
    """Our pre-training model and transformers', with the same weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=V,
        hidden_size=D,
        num_hidden_layers=L,
        num_attention_heads=N,
        intermediate_size=F,
        max_position_embeddings=11,
        attn_implementation="eager",
    )
    theirs = transformers.BertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = {k: v.detach().cpu().numpy() for k, v in theirs.state_dict().items()}
    ours = models.bert.pretraining(SIZE)
    for variable in ours.trainable_variables:
        value = state[their_name(variable.path)]
        variable.assign(value.T if variable.path.endswith("kernel") else value)
    return ours, theirs


def of_theirs(theirs):
    import torch

    with torch.no_grad():
        inputs = {
            "input_ids": torch.tensor(INPUTS["token_ids"]).long(),
            "token_type_ids": torch.tensor(INPUTS["segment_ids"]).long(),
            "attention_mask": torch.tensor(INPUTS["padding_mask"]).long(),
        }
        encoded = theirs.bert(**inputs, output_hidden_states=True)
        heads = theirs(**inputs)
    return {
        "sequence_output": encoded.last_hidden_state.numpy(),
        "pooled_output": encoded.pooler_output.numpy(),
        "hidden_states": [state.numpy() for state in encoded.hidden_states],
        "masked_lm": heads.prediction_logits.numpy(),
        "next_sentence": heads.seq_relationship_logits.numpy(),
    }


def test_outputs_equal_transformers(both_models):
    ours, theirs = both_models
    expected = of_theirs(theirs)
    outputs = computed(ours, {**INPUTS, "masked_positions": POSITIONS})
    logits = np.take_along_axis(expected["masked_lm"], POSITIONS[..., None], 1)
    np.testing.assert_allclose(outputs["masked_lm"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        outputs["next_sentence"], expected["next_sentence"], rtol=1e-4, atol=1e-5
    )
    shown = INPUTS["padding_mask"]
    encoded = computed(models.bert.encoder_of(ours), INPUTS)
    np.testing.assert_allclose(
        encoded["sequence_output"][shown], expected["sequence_output"][shown], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        encoded["pooled_output"], expected["pooled_output"], rtol=1e-4, atol=1e-5
    )


def test_hidden_states_equal_transformers(both_models):
    ours, theirs = both_models
    encoder = models.bert.encoder(SIZE, hidden_states=True)
    encoder.set_weights(models.bert.encoder_of(ours).get_weights())
    shown, states = INPUTS["padding_mask"], computed(encoder, INPUTS)["hidden_states"]
    expected = of_theirs(theirs)["hidden_states"]
    assert len(states) == len(expected) == L + 1
    for state, want in zip(states, expected, strict=True):
        np.testing.assert_allclose(state[shown], want[shown], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("bert_base", 109_482_240),
        pytest.param("bert_large", 335_141_888, marks=pytest.mark.slow),
    ],
)
@pytest.mark.backends("torch", reason="shapes are the same on every backend")
def test_sizes_have_the_parameter_counts_of_the_paper(size, count):
    # A stateless scope defers the weights, which then have shapes but no memory.
    with keras.StatelessScope():
        model = models.bert.encoder(size)
        found = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert found == count


def test_the_output_matrix_is_tied_to_the_embedding(both_models):
    ours, _ = both_models
    encoder = models.bert.encoder_of(ours)
    head = sum(np.prod(w.shape) for w in ours.get_layer("head").weights)
    assert ours.count_params() == encoder.count_params() + head
    assert head < V * D + V + D * D + 3 * D + 2 * D + 2


def test_numpy_integers_are_accepted():
    """Also where they are passed to a Keras layer, which would raise on them."""
    given = {"num_layers": 1, "hidden_dim": 12, "num_heads": 3, "intermediate_dim": 8}
    numpys = {name: np.int64(value) for name, value in given.items()}
    encoder = models.bert.encoder("bert_tiny", vocabulary_size=np.int64(V), **numpys)
    classifier = models.bert_tasks.classifier(encoder, np.int64(4))
    assert keras.models.model_from_json(classifier.to_json()).output.shape == (None, 4)
    recurrent = models.rnn_attention.encoder_decoder(
        np.int64(V), np.int64(5), embedding_dim=np.int64(3), units=np.int64(2)
    )
    assert recurrent.output["logits"].shape == (None, None, 5)


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="`num_layers` must be a positive integer, got 2.0"):
        models.bert.encoder("bert_tiny", num_layers=2.0)
    with pytest.raises(ValueError, match="`size` must be one of bert_tiny.*got 'bert_huge'"):
        models.bert.encoder("bert_huge")
    with pytest.raises(ValueError, match="a size has the fields num_layers, .*got 'layers'"):
        models.bert.encoder("bert_tiny", layers=3)


@pytest.mark.parametrize("dropped", ["dropout", "attention_dropout"])
def test_each_dropout_rate_is_applied_alone(dropped):
    rates = {"dropout": 0.0, "attention_dropout": 0.0}
    still = models.bert.encoder(SIZE, **rates)
    moved = models.bert.encoder(SIZE, **{**rates, dropped: 0.5})
    for model, differs in ((still, False), (moved, True)):
        trained, rest = (
            arrays(model(INPUTS, training=t))["sequence_output"] for t in (True, False)
        )
        assert np.allclose(trained, rest, atol=1e-5) != differs


def test_initial_kernels_have_the_initializer_range_of_the_size():
    """Truncating a normal distribution at two deviations leaves 0.8796 of its deviation."""
    model = models.bert.pretraining(SIZE, hidden_dim=48, vocabulary_size=97, initializer_range=0.1)
    for weight in model.trainable_weights:
        if weight.path.endswith(("kernel", "embeddings")) and np.prod(weight.shape) > 2000:
            np.testing.assert_allclose(arrays(weight.value).std(), 0.08796, rtol=0.06)


@pytest.mark.backends("tensorflow", reason="a graph is TensorFlow's")
def test_a_block_adds_few_nodes_to_the_graph():
    import tensorflow as tf

    def nodes(num_layers):
        model = models.bert.encoder(
            "bert_tiny", num_layers=num_layers, hidden_dim=8, num_heads=2, vocabulary_size=11
        )
        signature = {x.name: tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in model.inputs}
        traced = tf.function(lambda inputs: model(inputs, training=False))
        graph = traced.get_concrete_function(signature).graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert nodes(2) - nodes(1) < 161 * 0.6  # a block of keras-hub 0.32's BERT has 161
