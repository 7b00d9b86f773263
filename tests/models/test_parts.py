"""The parts of every model of the package: new, reloaded, extended; other models raise."""

import keras
import pytest

from keras_attn import layers
from keras_attn.models import (
    bert,
    bert_tasks,
    gpt,
    modern_bert,
    packing,
    parts,
    rnn_attention,
    transformer,
)

BERT = {
    "vocabulary_size": 23,
    "num_layers": 3,
    "hidden_dim": 6,
    "num_heads": 2,
    "intermediate_dim": 7,
}
HEADS = {
    "classifier": (lambda encoder: bert_tasks.classifier(encoder, 5), layers.ClassificationHead),
    "regressor": (bert_tasks.regressor, layers.ClassificationHead),
    "tagger": (lambda encoder: bert_tasks.tagger(encoder, 5), layers.TokenTaggingHead),
    "span": (bert_tasks.span, layers.SpanHead),
    "multiple_choice": (bert_tasks.multiple_choice, layers.MultipleChoiceHead),
    "masked_lm": (bert_tasks.masked_lm, layers.MaskedLMHead),
    "next_sentence": (bert_tasks.next_sentence, layers.NextSentenceHead),
    "pretraining": (bert.with_pretraining_heads, layers.BertPretrainingHead),
}
WITHOUT_POOLER = ("tagger", "span", "masked_lm")


def names(items):
    return [layer.name for layer in items]


@pytest.mark.slow_on("tensorflow")
@pytest.mark.parametrize("task", HEADS)
def test_parts_of_bert_and_its_task_models(task, tmp_path):
    encoder = bert.encoder("bert_tiny", **BERT)
    whole = parts.of(encoder)
    build, head = HEADS[task]
    model = build(encoder)
    found = parts.of(model)
    assert found.encoder == whole.encoder and found.decoder is None and whole.head is None
    assert type(found.encoder.embedding) is layers.BertEmbedding
    assert found.encoder.position is found.encoder.embedding.position_embedding
    assert names(found.encoder.blocks) == ["block_0", "block_1", "block_2"]
    assert type(found.head) is head
    assert found.pooler is (None if task in WITHOUT_POOLER else whole.pooler)
    model.save(tmp_path / "model.keras")
    again = parts.of(keras.saving.load_model(tmp_path / "model.keras"))
    assert type(again.head) is head
    assert names(again.encoder.blocks) == names(found.encoder.blocks)


def test_more_than_ten_blocks_keep_their_order():
    model = bert.encoder("bert_tiny", **{**BERT, "num_layers": 11})
    assert names(parts.of(model).encoder.blocks) == [f"block_{index}" for index in range(11)]


def test_parts_of_gpt_also_when_packed():
    model = gpt.decoder("gpt_tiny", **BERT)
    found = parts.of(model)
    assert found == parts.of(packing.packed(model))
    assert found.encoder is None and type(found.decoder.embedding) is layers.TokenEmbedding
    assert type(found.decoder.position) is layers.LearnedPositionEmbedding
    assert names(found.decoder.blocks) == ["block_0", "block_1", "block_2"]
    assert type(found.head) is layers.LanguageModelHead


def test_parts_of_a_gpt_encoder_also_when_packed():
    model = bert_tasks.tagger(gpt.encoder("gpt_tiny", **BERT), 5)
    found = parts.of(model)
    assert found == parts.of(packing.packed(model))
    assert found.decoder is None and type(found.encoder.embedding) is layers.TokenEmbedding
    assert type(found.encoder.position) is layers.LearnedPositionEmbedding
    assert found.encoder.norm is model.get_layer("norm")
    assert names(found.encoder.blocks) == ["block_0", "block_1", "block_2"]
    assert type(found.head) is layers.TokenTaggingHead


def test_each_model_has_the_family_of_its_module():
    built = {
        "bert": bert.encoder("bert_tiny", **BERT),
        "modern_bert": modern_bert.encoder("modern_bert_base", **{**BERT, "num_heads": 3}),
        "gpt": gpt.encoder("gpt_tiny", **BERT),
        "transformer": transformer.encoder_decoder("transformer_tiny", **BERT),
        "rnn_attention": rnn_attention.encoder_decoder(23, embedding_dim=5, units=7),
    }
    assert {name: parts.of(model).family for name, model in built.items()} == {n: n for n in built}
    assert parts.of(gpt.decoder("gpt_tiny", **BERT)).family == "gpt"


@pytest.mark.parametrize("normalize_first", [False, True])
def test_parts_of_a_transformer(normalize_first):
    model = transformer.encoder_decoder("transformer_tiny", **BERT, normalize_first=normalize_first)
    found = parts.of(model)
    assert found.encoder.embedding is found.decoder.embedding
    assert names(found.encoder.blocks) == [f"encoder_block_{index}" for index in range(3)]
    assert names(found.decoder.blocks) == [f"decoder_block_{index}" for index in range(3)]
    assert found.encoder.position is not found.decoder.position
    assert (found.encoder.norm is not None) is normalize_first


def test_parts_of_a_recurrent_model():
    cell = keras.layers.LSTMCell(7)
    model = rnn_attention.encoder_decoder(17, 19, embedding_dim=5, units=7, cell=cell)
    found = parts.of(model)
    assert found.encoder.embedding.input_dim == 17 and found.decoder.embedding.input_dim == 19
    assert type(found.encoder.blocks[0]) is keras.layers.Bidirectional
    assert found.decoder.blocks[0].cell.cell is cell
    assert len(found.bridges) == 2
    assert found.head.units == 19 and found.readout.units == 5


def test_parts_of_a_user_model_built_on_an_encoder():
    encoder = bert.encoder("bert_tiny", **BERT)
    inside = keras.Model(encoder.input, keras.layers.Dense(3)(encoder.output["pooled_output"]))
    around = keras.Model(
        encoder.input, keras.layers.Dense(3)(encoder(encoder.input)["pooled_output"])
    )
    for model in (inside, around):
        assert parts.of(model) == parts.of(encoder)


def test_a_model_of_another_kind_raises():
    inputs = keras.Input((3, 4))
    block = layers.TransformerEncoderBlock(2, 5, name="block_0")
    model = keras.Model(inputs, block(inputs), name="other")
    assert parts.find(model) is None
    with pytest.raises(
        ValueError,
        match="one of keras_attn.models, got the Functional 'other' with layers .*, block_0",
    ):
        parts.of(model)
    with pytest.raises(ValueError, match="got the Dense 'x' with layers $"):
        parts.of(keras.layers.Dense(3, name="x"))


def test_two_encoders_in_one_model_raise():
    first, second = bert.encoder("bert_tiny", **BERT), bert.encoder("bert_tiny", **BERT, name="b")
    both = [first(first.input)["pooled_output"], second(first.input)["pooled_output"]]
    siamese = keras.Model(first.input, both)
    assert parts.find(siamese) is None
    with pytest.raises(ValueError, match="one encoder or decoder, got two layers 'block_0'"):
        parts.of(siamese)


def test_layer_names_alone_do_not_make_parts():
    ids = keras.Input((3,), dtype="int32")
    vectors = layers.TokenEmbedding(5, 4, name="token_embedding")(ids)
    decoder = layers.TransformerEncoderBlock(2, 5, name="block_0")(vectors)
    assert parts.find(keras.Model(ids, decoder)) is None  # without a position
    encoder = layers.TransformerEncoderBlock(2, 5, name="encoder_block_0")(vectors)
    both = layers.TransformerDecoderBlock(2, 5, name="decoder_block_0")(vectors, encoder)
    assert parts.find(keras.Model(ids, both)) is None
    cell = layers.AttentionDecoderCell(keras.layers.GRUCell(4), layers.LuongAttention(), "current")
    recurrent = layers.AttentionDecoder(cell, name="decoder")(vectors, vectors)
    assert parts.find(keras.Model(ids, recurrent)) is None


def test_outputs_belong_to_the_given_model():
    model = bert_tasks.tagger(bert.encoder("bert_tiny", **BERT), 5)
    rows = packing.packed(model)
    head = parts.of(model).head
    assert parts.outputs(rows, head)[0] is rows.output is not head.output
    with pytest.raises(ValueError, match="`layer` must be called by 'bert_tagger_packed', got 'x'"):
        parts.outputs(rows, keras.layers.Dense(3, name="x"))


def test_paths_lead_to_the_layers_of_heads_that_are_alone_or_together():
    whole = bert.pretraining("bert_tiny", vocabulary_size=100)
    alone = bert_tasks.masked_lm(bert.encoder("bert_tiny", vocabulary_size=100))
    for model in (whole, alone):
        paths = {parts.path_of(weight) for weight in model.weights}
        assert "masked_lm/bias" in paths and any(map(parts.is_token_matrix, paths))
        layer = parts.layer_at(model, "masked_lm/bias")
        assert isinstance(layer, layers.MaskedLMHead)
    with pytest.raises(ValueError, match="must have one layer 'next_sentence', got 0"):
        parts.layer_at(alone, "next_sentence/bias")


def test_encoder_of_a_packed_model_raises():
    rows = packing.packed(bert_tasks.tagger(bert.encoder("bert_tiny", **BERT), 5))
    with pytest.raises(ValueError, match="one sequence a row, got 'bert_tagger_packed'"):
        bert.encoder_of(rows)


def test_encoder_of_a_model_with_a_decoder_raises():
    for model in (
        gpt.decoder("gpt_tiny", **BERT),
        transformer.encoder_decoder("transformer_tiny", **BERT),
    ):
        text = f"must hold an encoder and no decoder, as BERT does, got '{model.name}'"
        with pytest.raises(ValueError, match=text):
            bert.encoder_of(model)


def test_only_an_embedder_embeds():
    encoder = bert.encoder("bert_tiny", **BERT)
    embedder = bert_tasks.embedder(encoder)
    further = keras.Model(embedder.input, keras.layers.Dense(3)(embedder.output))
    several = bert_tasks.siamese(embedder)
    classifier = bert_tasks.classifier(encoder, 3, pooling="mean")
    assert parts.embeds(embedder)
    assert not any(map(parts.embeds, (further, several, classifier, encoder)))
