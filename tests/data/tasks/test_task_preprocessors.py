"""Pairs, choices and tagged words: packed rows and labels against hand-written ones."""

import json

import keras
import numpy as np
import pytest

from keras_attn.data import (
    ChoicePreprocessor,
    MaskedLMPostprocessor,
    PairPreprocessor,
    SpanPostprocessor,
    SpanPreprocessor,
    TaggingPostprocessor,
    WordsPreprocessor,
)

tf = pytest.importorskip("tensorflow")

WORDS = ["who", "ann", "sang", "loud", "play", "##ing", "##ed", "!", "-", "the", "大", "小"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
ID = {token: number for number, token in enumerate(VOCABULARY)}


def ids(text):
    return [ID[token] for token in text.split()]


def lists(tensor):
    return tensor.numpy().tolist()


def in_graph(layer, *arguments):
    """The layer's outputs in a graph, as inside tf.data."""
    function = tf.function(layer.__call__, autograph=False)
    return function(*arguments)


def same(first, second):
    keras.tree.map_structure(lambda a, b: np.testing.assert_array_equal(a, b), first, second)


def reloaded(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    return keras.saving.deserialize_keras_object(config)


def test_pairs_are_packed_and_truncated():
    rows = PairPreprocessor(VOCABULARY, length=9)(["Ann sang", "who"], ["loud!", "the the the the"])
    assert lists(rows["token_ids"]) == [
        ids("[CLS] ann sang [SEP] loud ! [SEP] [PAD]"),
        ids("[CLS] who [SEP] the the the the [SEP]"),
    ]
    assert lists(rows["segment_ids"]) == [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("length", [4, 9.0, float("nan"), None, True])
def test_a_pair_length_below_5_raises(length):
    with pytest.raises(ValueError, match=f"`length` must be at least 5, got {length}"):
        PairPreprocessor(VOCABULARY, length=length)


@pytest.mark.parametrize("wrong", [0, 2.0, float("nan"), None, True])
def test_a_count_that_is_not_a_positive_integer_raises(wrong):
    message = f"must be a positive integer, got {wrong}"
    with pytest.raises(ValueError, match=f"`longest` {message}"):
        SpanPostprocessor(longest=wrong)
    with pytest.raises(ValueError, match=f"`question_length` {message}"):
        SpanPreprocessor(VOCABULARY, length=12, question_length=wrong, overlap=1)
    with pytest.raises(ValueError, match=f"`top` must be from 1 to .*, got {wrong}"):
        MaskedLMPostprocessor(VOCABULARY, top=wrong)


def test_choices_are_packed_as_pairs():
    layer = ChoicePreprocessor(VOCABULARY, length=9)
    prompts, choices = ["who", "Ann sang"], [["ann", "loud playing", "the"], ["!", "-", "who"]]
    rows = layer(prompts, choices)
    assert rows["token_ids"].shape == (2, 3, 7)
    pairs = PairPreprocessor(VOCABULARY, length=9)(
        [prompt for prompt in prompts for _ in range(3)], sum(choices, [])
    )
    assert lists(rows["token_ids"]) == np.reshape(pairs["token_ids"], (2, 3, 7)).tolist()
    same(in_graph(layer, tf.constant(prompts), tf.constant(choices)), rows)


def test_unequal_numbers_of_choices_raise():
    message = r"`choices` must have the shape \[B, C\], got lists of unequal length"
    with pytest.raises(ValueError, match=message):
        ChoicePreprocessor(VOCABULARY, length=9)(["who", "who"], [["a"], ["b", "c"]])


def words_layer(length=9):
    return WordsPreprocessor(VOCABULARY, length=length, tags=["O", "B-X", "I-X"])


def test_words_are_packed_with_tags_at_their_first_tokens():
    words = [["Ann", "playing", "!"], ["大小", "\x00", "played", "the", "the", "the"]]
    tags = [["B-X", "I-X", "O"], ["I-X", "B-X", "B-X", "O", "I-X", "I-X"]]
    rows, numbers, weights = words_layer()(words, tags)
    assert lists(rows["token_ids"]) == [
        ids("[CLS] ann play ##ing ! [SEP] [PAD] [PAD] [PAD]"),
        ids("[CLS] 大 小 [UNK] play ##ed the the [SEP]"),
    ]
    assert lists(numbers) == [[0, 1, 2, 0, 0, 0, 0, 0, 0], [0, 2, 0, 1, 1, 0, 0, 2, 0]]
    first = [[0, 1, 1, 0, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 1, 1, 0]]
    assert lists(weights) == first
    with pytest.warns(DeprecationWarning, match="`first_pieces` is deprecated"):
        assert lists(words_layer().first_pieces(words)) == np.array(first, bool).tolist()
    same(words_layer()(words), rows)
    ragged = [tf.ragged.constant(strings) for strings in (words, tags)]
    same(in_graph(words_layer(), *ragged), (rows, numbers, weights))


def test_an_unknown_tag_raises():
    words, tags = tf.ragged.constant([["who"]]), tf.ragged.constant([["B-Y"]])
    with pytest.raises(ValueError, match="`tags` must be among O, B-X, I-X, got 'B-Y'"):
        words_layer()(words, tags)
    dataset = tf.data.Dataset.from_tensors((words, tags)).map(words_layer())
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)must be among O, B-X, I-X.*B-Y"):
        next(iter(dataset))


def test_unequal_numbers_of_words_and_tags_raise():
    with pytest.raises(ValueError, match="`tags` must have one tag for each word, got 'who sang'"):
        words_layer()([["who", "sang"]], [["O"]])


def test_repeated_tags_raise():
    with pytest.raises(ValueError, match=r"`tags` must be different names, got \['O', 'O'\]"):
        WordsPreprocessor(VOCABULARY, length=9, tags=["O", "O"])


def test_words_that_are_not_lists_of_strings_raise():
    with pytest.raises(ValueError, match=r"`words` must have the shape \[B, \(W\)\], got \(1,\)"):
        words_layer()(tf.constant(["who"]))
    message = r"`words` must have the shape \[B, \(W\)\], a list for each row, got 'who'"
    for flat in (["who", "sang"], np.array(["who", "sang"])):
        with pytest.raises(ValueError, match=message):
            words_layer()(flat)
    with pytest.raises(ValueError, match=r"`tags` must have the shape .* got 'O'"):
        words_layer()([["who", "sang"]], ["O", "O"])
    with pytest.raises(ValueError, match="`words` must hold strings, got None at index 2"):
        words_layer()([["who", "sang"], [None]])


def test_words_may_be_arrays_tuples_or_empty():
    expected = words_layer()([["who", "sang"], ["ann", "ann"]])
    same(words_layer()(np.array([["who", "sang"], ["ann", "ann"]])), expected)
    same(words_layer()((("who", "sang"), np.array(["ann", "ann"]))), expected)
    assert lists(words_layer()([])["token_ids"]) == []
    assert lists(words_layer()([[]])["token_ids"]) == [[2, 3]]


SLOW = pytest.mark.slow  # a graph of each takes seconds; one row, which might broadcast, is fast


@pytest.mark.parametrize(
    ("make", "arguments", "name"),
    [
        pytest.param(PairPreprocessor, (["who"] * 3, ["ann"] * 2), "second", marks=SLOW),
        (PairPreprocessor, (["who"], ["ann"] * 2), "second"),
        pytest.param(ChoicePreprocessor, (["who"] * 2, [["ann", "the"]]), "prompt", marks=SLOW),
        (ChoicePreprocessor, (["who"], [["ann", "the"]] * 2), "prompt"),
        pytest.param(SpanPreprocessor, (["who"] * 3, ["ann"] * 2), "question", marks=SLOW),
        (SpanPreprocessor, (["who"], ["ann"] * 2), "question"),
        (SpanPreprocessor, (["who"], ["ann the"], ["ann", "the"], [0, 4]), "answer"),
        pytest.param(
            SpanPreprocessor,
            (["who"], ["ann the"], ["ann"], [0, 4]),
            "answer_start",
            marks=SLOW,
        ),
    ],
)
def test_unequal_numbers_of_rows_raise(make, arguments, name):
    """A ValueError eagerly, and TensorFlow's error in a graph with unknown sizes."""
    options = {"question_length": 3, "overlap": 1} if make is SpanPreprocessor else {}
    layer = make(VOCABULARY, length=12, **options)
    message = f"`{name}` must have as many rows as "
    with pytest.raises(ValueError, match=message):
        layer(*arguments)
    tensors = [tf.constant(argument) for argument in arguments]
    signature = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in tensors]
    graph = tf.function(layer.__call__, signature, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        graph(*tensors)


def test_unequal_numbers_of_rows_of_words_and_tags_raise():
    with pytest.raises(ValueError, match="`tags` must have as many rows as `words`, 2, got 1"):
        words_layer()([["the"], ["the"]], [["O"]])


def test_values_that_are_not_strings_raise():
    layer = PairPreprocessor(VOCABULARY, length=9)
    with pytest.raises(ValueError, match="`second` must hold strings, got None at index 1"):
        layer(["a", "b"], ["c", None])
    with pytest.raises(ValueError, match="`prompt` must hold strings, got nan at index 0"):
        ChoicePreprocessor(VOCABULARY, length=9)([float("nan")], [["a", "b"]])


def test_logits_beyond_the_vocabulary_are_ignored():
    """NVIDIA's BERTs have such rows: they never become a prediction."""
    size = len(VOCABULARY)
    logits = np.full([1, 2, size + 7], -9.0, "float32")
    logits[0, 0, [ID["sang"], ID["loud"], size + 3]] = 2.0, 1.0, 30.0
    layer = MaskedLMPostprocessor(VOCABULARY, top=2)
    answer = layer(logits, {"masked_weights": [[1.0, 0.0]]})
    assert lists(answer["tokens"]) == [[[b"sang", b"loud"], [b"", b""]]]
    assert answer["pieces"] is answer["tokens"]  # the earlier name
    same(answer, layer(logits[..., :size], {"masked_weights": [[1.0, 0.0]]}))
    with pytest.raises(ValueError, match=f"a logit for each of {size} tokens, got {size - 1}"):
        layer(logits[..., : size - 1], {"masked_weights": [[1.0, 0.0]]})


def test_a_padding_mask_may_hold_integers():
    features = {"token_ids": [[ID["ann"], 0]], "padding_mask": [[1, 0]]}
    tagger = TaggingPostprocessor(VOCABULARY, ["x", "y"])
    assert lists(tagger([[[1.0, 0.0], [0.0, 1.0]]], features)["tags"]) == [[b"x", b""]]


PREPROCESSORS = {
    "pair": (lambda: PairPreprocessor(VOCABULARY, 9), [(), ()]),
    "choice": (lambda: ChoicePreprocessor(VOCABULARY, 9), [(), (2,)]),
    "words": (words_layer, [(None,)]),
    "span": (lambda: SpanPreprocessor(VOCABULARY, 10, 3, 1), [(), ()]),
}


@pytest.mark.parametrize("make", [make for make, _ in PREPROCESSORS.values()])
def test_the_config_restores_the_preprocessor(make):
    layer = make()
    again = reloaded(layer)
    assert again.get_config() == layer.get_config()
    strings = [layer.examples(9, 3)[name] for name in layer.text_inputs]
    same(again(*strings), layer(*strings))


def test_a_config_of_version_0_1_0_loads():
    """In 0.1.0 the classes were in other modules, and spans had no `whole_words`."""
    layer = SpanPreprocessor(VOCABULARY, 10, 3, 1)
    config = keras.saving.serialize_keras_object(layer)
    config["module"] = "keras_attn.data.span_preprocessor"
    config["config"]["tokenizer"]["module"] = "keras_attn.data.tokenizer"
    del config["config"]["whole_words"]
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    same(again(["who"], ["ann sang"]), layer(["who"], ["ann sang"]))


@pytest.mark.backends("tensorflow", reason="the others have no strings in a functional model")
@pytest.mark.parametrize("name", PREPROCESSORS)
def test_preprocessors_in_a_model_can_be_saved(name, tmp_path):
    make, shapes = PREPROCESSORS[name]
    inputs = [keras.Input(shape, dtype="string") for shape in shapes]
    model = keras.Model(inputs, make()(*inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    batch = [tf.fill([3, *(size or 2 for size in shape)], "who sang") for shape in shapes]
    same(again(batch), make()(*batch))
