"""Pairs, choices, tagged words, questions with long contexts: rows and labels by hand."""

import json

import keras
import numpy as np
import pytest

from keras_attn.data import (
    ChoicePreprocessor,
    PairPreprocessor,
    SpanPreprocessor,
    WordsPreprocessor,
)

tf = pytest.importorskip("tensorflow")

WORDS = ["who", "ann", "sang", "loud", "play", "##ing", "##ed", "!", "-", "the", "大", "小"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
ID = {piece: number for number, piece in enumerate(VOCABULARY)}


def ids(text):
    return [ID[piece] for piece in text.split()]


def lists(tensor):
    return tensor.numpy().tolist()


def in_graph(layer, *arguments):
    """What the layer gives inside tf.data, where no shape is known."""
    function = tf.function(layer.__call__, autograph=False)
    return function(*arguments)


def same(first, second):
    keras.tree.map_structure(lambda a, b: np.testing.assert_array_equal(a, b), first, second)


def reloaded(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    return keras.saving.deserialize_keras_object(config)


def test_pair():
    rows = PairPreprocessor(VOCABULARY, length=9)(["Ann sang", "who"], ["loud!", "the the the the"])
    assert lists(rows["token_ids"]) == [
        ids("[CLS] ann sang [SEP] loud ! [SEP] [PAD]"),
        ids("[CLS] who [SEP] the the the the [SEP]"),
    ]
    assert lists(rows["segment_ids"]) == [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_pair_needs_room():
    with pytest.raises(ValueError, match="`length` must be at least 5, got 4"):
        PairPreprocessor(VOCABULARY, length=4)


def test_choices():
    layer = ChoicePreprocessor(VOCABULARY, length=9)
    prompts, choices = ["who", "Ann sang"], [["ann", "loud playing", "the"], ["!", "-", "who"]]
    rows = layer(prompts, choices)
    assert rows["token_ids"].shape == (2, 3, 7)
    pairs = PairPreprocessor(VOCABULARY, length=9)(
        [prompt for prompt in prompts for _ in range(3)], sum(choices, [])
    )
    assert lists(rows["token_ids"]) == np.reshape(pairs["token_ids"], (2, 3, 7)).tolist()
    same(in_graph(layer, tf.constant(prompts), tf.constant(choices)), rows)


def test_choices_of_unequal_number():
    with pytest.raises(
        ValueError, match=r"as many strings for each prompt, \[B, C\], got \[\['a'\]"
    ):
        ChoicePreprocessor(VOCABULARY, length=9)(["who", "who"], [["a"], ["b", "c"]])


def words_layer(length=9):
    return WordsPreprocessor(VOCABULARY, length=length, tags=["O", "B-X", "I-X"])


def test_words():
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
    assert lists(words_layer().first_pieces(words)) == np.array(first, bool).tolist()
    same(words_layer()(words), rows)
    ragged = [tf.ragged.constant(strings) for strings in (words, tags)]
    same(in_graph(words_layer(), *ragged), (rows, numbers, weights))


def test_unknown_tag_is_named():
    words, tags = tf.ragged.constant([["who"]]), tf.ragged.constant([["B-Y"]])
    with pytest.raises(ValueError, match="`tags` must be among O, B-X, I-X, got 'B-Y'"):
        words_layer()(words, tags)
    dataset = tf.data.Dataset.from_tensors((words, tags)).map(words_layer())
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)must be among O, B-X, I-X.*B-Y"):
        next(iter(dataset))


def test_a_tag_for_each_word():
    with pytest.raises(ValueError, match="`tags` must have one tag for each word, got 'who sang'"):
        words_layer()([["who", "sang"]], [["O"]])


def test_tags_that_repeat():
    with pytest.raises(ValueError, match=r"`tags` must be names, each once, got \['O', 'O'\]"):
        WordsPreprocessor(VOCABULARY, length=9, tags=["O", "O"])


def test_words_without_rows():
    with pytest.raises(ValueError, match=r"`words` must have the shape \[B, \(W\)\], got \(1,\)"):
        words_layer()(tf.constant(["who"]))


def span_layer(**options):
    return SpanPreprocessor(
        VOCABULARY, **{"length": 10, "question_length": 3, "overlap": 1, **options}
    )


CONTEXTS = ["Ann\u00a0 played — the loud 大小!\tsang", "who"]


def test_windows():
    """Room for 4 pieces, 1 shared with the window before; the second context has one window."""
    layer = span_layer()
    questions = tf.constant(["who sang the the", "-"])
    features = layer(questions, CONTEXTS)
    question = "[CLS] who sang the [SEP]"
    assert lists(features["token_ids"]) == [
        [
            ids(f"{question} ann play ##ed [UNK] [SEP]"),
            ids(f"{question} [UNK] the loud 大 [SEP]"),
            ids(f"{question} 大 小 ! sang [SEP]"),
        ],
        [ids("[CLS] - [SEP] who [SEP]") + [0] * 5, [0] * 10, [0] * 10],
    ]
    seen = features["padding_mask"].numpy()
    assert seen.sum(-1).tolist() == [[10, 10, 10], [5, 0, 0]]
    assert lists(features["segment_ids"])[0][1] == [0] * 5 + [1] * 5
    context = CONTEXTS[0].encode()
    words = [
        context[first:last].decode()
        for first, last in features["offsets"].numpy()[0, 1]
        if first >= 0
    ]
    assert words == ["—", "the", "loud", "大"]
    assert (features["offsets"].numpy()[1, 0] >= 0).all(-1).tolist() == [False] * 3 + [True] + [
        False
    ] * 6
    same(in_graph(layer, questions, tf.constant(CONTEXTS)), features)


def test_labels():
    """The first window ends within the answer, and does not have it."""
    answers, starts = ["— the", ""], [CONTEXTS[0].index("—"), 0]
    arguments = (["who sang the", "who"], CONTEXTS, answers, starts)
    _, labels, weights = span_layer()(*arguments)
    assert lists(labels["start"]) == [[0, 5, 0], [0, 0, 0]]
    assert lists(labels["end"]) == [[0, 6, 0], [0, 0, 0]]
    assert lists(weights) == [[1, 1, 1], [1, 0, 0]]
    same(in_graph(span_layer(), *map(tf.constant, arguments))[1], labels)


def test_answers_come_back_as_they_were_written():
    layer = span_layer(length=40)
    features = layer(["who"], CONTEXTS[:1])
    offsets = tf.repeat(features["offsets"][:, 0], 4, axis=0)
    start, end = tf.constant([3, 4, 5, 0]), tf.constant([5, 8, 4, 0])
    texts = layer.answers(CONTEXTS[:1] * 4, offsets, start, end)
    assert [text.decode() for text in texts.numpy()] == [
        "Ann\u00a0 played",
        "played — the loud",
        "played",
        "",
    ]


def test_answer_that_is_not_in_its_context():
    text = "`answer` must stand in `context` at `answer_start`, got 'loud'"
    with pytest.raises(ValueError, match=text):
        span_layer()(["who"], ["ann sang loud"], ["loud"], [3])


def test_empty_context():
    features, labels, _ = span_layer()(["who"], [""], [""], [0])
    assert lists(features["token_ids"]) == [[ids("[CLS] who [SEP] [SEP]")]]
    assert lists(labels["start"]) == [[0]]


def test_windows_need_a_step():
    with pytest.raises(ValueError, match="must leave more room than `overlap` after `question_len"):
        span_layer(overlap=4)


@pytest.mark.parametrize("make", [words_layer, span_layer, lambda: PairPreprocessor(VOCABULARY, 9)])
def test_config(make):
    layer = make()
    again = reloaded(layer)
    assert again.get_config() == layer.get_config()
    strings = [layer.examples(9, 3)[name] for name in layer.text_inputs]
    same(again(*strings), layer(*strings))


@pytest.mark.shared_data
def test_every_answer_of_xquad_comes_back(shared):
    """The words that an answer touches hold it, and mostly are it."""
    articles = json.loads((shared / "data" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    rows = [
        (question["question"], paragraph["context"], answer["text"], answer["answer_start"])
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
        for answer in question["answers"]
    ]
    letters = sorted({c for row in rows for c in (row[0] + row[1]).lower()} - set(" \n"))
    vocabulary = VOCABULARY[:5] + [p + c for p in ("", "##") for c in letters]
    layer = SpanPreprocessor(vocabulary, length=4000, question_length=500, overlap=0)
    questions, contexts, answers, starts = map(list, zip(*rows, strict=True))
    exact = 0
    for at in range(0, len(rows), 100):
        cut = slice(at, at + 100)
        features, labels, _ = layer(questions[cut], contexts[cut], answers[cut], starts[cut])
        texts = layer.answers(
            contexts[cut], features["offsets"][:, 0], labels["start"][:, 0], labels["end"][:, 0]
        )
        for text, answer in zip(texts.numpy(), answers[cut], strict=True):
            assert answer.strip() in text.decode()
            exact += text.decode() == answer
    assert exact >= 0.97 * len(rows)


PREPROCESSORS = {
    "pair": (lambda: PairPreprocessor(VOCABULARY, 9), [(), ()]),
    "choice": (lambda: ChoicePreprocessor(VOCABULARY, 9), [(), (2,)]),
    "words": (words_layer, [(None,)]),
    "span": (span_layer, [(), ()]),
}


@pytest.mark.backends("tensorflow", reason="the others have no strings in a functional model")
@pytest.mark.parametrize("name", PREPROCESSORS)
def test_in_a_model_that_was_saved(name, tmp_path):
    make, shapes = PREPROCESSORS[name]
    inputs = [keras.Input(shape, dtype="string") for shape in shapes]
    model = keras.Model(inputs, make()(*inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    batch = [tf.fill([3, *(size or 2 for size in shape)], "who sang") for shape in shapes]
    same(again(batch), make()(*batch))
