"""Windows, labels and answers of a span model; token offsets against transformers."""

import json
import unicodedata

import pytest
from transformers import BertTokenizerFast

from keras_attn.data import (
    BertTokenizer,
    SpanPostprocessor,
    SpanPreprocessor,
    UnigramTokenizer,
    train_vocabulary,
)
from tests.data.tasks.test_task_preprocessors import VOCABULARY, ids, in_graph, lists, same

tf = pytest.importorskip("tensorflow")


def span_layer(**options):
    return SpanPreprocessor(
        VOCABULARY, **{"length": 10, "question_length": 3, "overlap": 1, **options}
    )


CONTEXTS = ["Ann\u00a0 played — the loud 大小!\tsang", "who"]


def test_long_contexts_are_split_into_overlapping_windows():
    """Windows of 4 tokens with an overlap of 1; the second context has one window."""
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


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([None], r"`answer_start` must hold integers, got \[None\]"),
        ([float("nan")], r"`answer_start` must hold integers, got \[nan\]"),
        (0, "`answer_start` must have one row for each example, got a scalar"),
    ],
)
def test_an_answer_start_that_is_not_an_integer_raises(start, message):
    with pytest.raises(ValueError, match=message):
        span_layer()(["who"], ["ann"], ["ann"], start)


def test_labels_are_zero_in_windows_without_the_whole_answer():
    """The first window ends within the answer, so its labels are zero."""
    answers, starts = ["— the", ""], [CONTEXTS[0].index("—"), 0]
    arguments = (["who sang the", "who"], CONTEXTS, answers, starts)
    _, labels, weights = span_layer()(*arguments)
    assert lists(labels["start"]) == [[0, 5, 0], [0, 0, 0]]
    assert lists(labels["end"]) == [[0, 6, 0], [0, 0, 0]]
    assert lists(weights) == [[1, 1, 1], [1, 0, 0]]
    same(in_graph(span_layer(), *map(tf.constant, arguments))[1], labels)


def test_answers_are_the_original_text():
    layer = span_layer(length=40)
    features = layer(["who"], CONTEXTS[:1])
    offsets = tf.repeat(features["offsets"][:, 0], 4, axis=0)
    start, end = tf.constant([3, 4, 5, 0]), tf.constant([5, 8, 4, 0])
    texts = layer.answers(CONTEXTS[:1] * 4, offsets, start, end)
    assert [text.decode() for text in texts.numpy()] == [
        "Ann\u00a0 played",
        "played — the loud",
        "",
        "",
    ]


def test_an_answer_that_is_not_in_its_context_raises():
    text = "`answer` must be in `context` at `answer_start`, got 'loud'"
    with pytest.raises(ValueError, match=text):
        span_layer()(["who"], ["ann sang loud"], ["loud"], [3])


def test_an_empty_context_gives_one_window():
    features, labels, _ = span_layer()(["who"], [""], [""], [0])
    assert lists(features["token_ids"]) == [[ids("[CLS] who [SEP] [SEP]")]]
    assert lists(labels["start"]) == [[0]]


def test_an_overlap_as_long_as_the_window_raises():
    with pytest.raises(
        ValueError, match="must leave more space than `overlap` after `question_len"
    ):
        span_layer(overlap=4)


# Text and answer. No answer is a word between spaces.
ANSWERS = {
    "Japanese": ("富士山は静岡県と山梨県にあります。", "静岡県"),
    "kana": ("わたしはパンをたべました", "パン"),
    "Thai": ("กรุงเทพมหานครเป็นเมืองหลวงของไทย", "เมืองหลวง"),
    "Korean": ("그는 서울에서 태어났다.", "서울"),
    "Arabic": ("ولد في القاهرة وبالإسكندرية عاش", "الإسكندرية"),
    "Hebrew": ("הוא נולד בירושלים", "ירושלים"),
    "years": ("It began in the 1870s, he said", "1870"),
    "compound": ("Das Hauptbahnhofsgebäude steht", "bahnhof"),
    "accents": ("Le cafe\u0301 s'appelle E\u0301toile", "cafe\u0301"),
    "joined": ("a\u200bn\u200bn s\u00adang", "n\u200bn s\u00adang"),
    "marks": ("(Müller)[MASK]ＡＢＣ", "Müller"),
}


def characters_vocabulary(texts):
    """Every normalized character of the texts, at the start of a word and inside it."""
    found = unicodedata.normalize("NFD", "".join(texts).lower())
    found = sorted({c for c in found if unicodedata.category(c) not in ("Mn", "Cf", "Zs")})
    return [*VOCABULARY[:5], *(mark + c for mark in ("", "##") for c in found)]


def to_characters(text, offsets):
    """Byte offsets as character offsets."""
    place = {len(text[:n].encode()): n for n in range(len(text) + 1)}
    return [(place[begin], place[end]) for begin, end in offsets]


@pytest.mark.parametrize("script", ANSWERS)
def test_answers_may_be_parts_of_words(script):
    context, answer = ANSWERS[script]
    vocabulary = characters_vocabulary([context, answer])
    layer = SpanPreprocessor(vocabulary, length=99, question_length=3, overlap=0)
    start = context.index(answer)
    features, labels, _ = layer(["?"], [context], [answer], [start])
    found = layer.answers(
        [context], features["offsets"][:, 0], labels["start"][:, 0], labels["end"][:, 0]
    )
    assert found.numpy()[0].decode() == answer
    logits = {name: tf.one_hot(at, features["token_ids"].shape[2]) for name, at in labels.items()}
    best = SpanPostprocessor(longest=99)(logits, {**features, "context": tf.constant([context])})
    assert best["answer"].numpy()[0].decode() == answer


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("script", ANSWERS)
def test_token_offsets_equal_transformers(script, lowercase, tmp_path):
    """Our end offset includes accents after a token's last character; transformers' does not."""
    context, _ = ANSWERS[script]
    vocabulary = [*characters_vocabulary([context, "s"]), "ann", "##70", "haupt", "##bahn", "富"]
    vocabulary = list(dict.fromkeys([*vocabulary, *train_vocabulary([context] * 9, 99)]))
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(vocabulary), encoding="utf-8")
    fast = BertTokenizerFast(str(file), do_lower_case=lowercase, strip_accents=lowercase)
    theirs = fast(context, add_special_tokens=False, return_offsets_mapping=True)
    tokens, begins, ends = BertTokenizer(vocabulary, lowercase).tokenize_with_offsets([context])
    assert lists(tokens[0]) == theirs["input_ids"]
    ours = to_characters(context, zip(lists(begins[0]), lists(ends[0]), strict=True))
    expected = []
    for begin, end in theirs["offset_mapping"]:
        while lowercase and end < len(context) and unicodedata.category(context[end]) == "Mn":
            end += 1
        expected.append((begin, end))
    assert ours == expected


def test_whole_words_extend_answers_and_labels_to_words():
    layer = span_layer(length=40, whole_words=True)
    features = layer(["who"], CONTEXTS[:1])
    text = layer.answers(
        CONTEXTS[:1] * 2, tf.repeat(features["offsets"][:, 0], 2, axis=0), [5, 4], [5, 5]
    )
    assert [t.decode() for t in text.numpy()] == ["played", "played"]
    _, labels, _ = layer(["who"], ["played"], ["lay"], [1])
    assert (lists(labels["start"]), lists(labels["end"])) == ([[3]], [[4]])
    _, labels, _ = span_layer(length=40)(["who"], ["played"], ["lay"], [1])
    assert (lists(labels["start"]), lists(labels["end"])) == ([[3]], [[3]])


def test_an_empty_batch_gives_empty_answers():
    layer = span_layer()
    features = {**layer(tf.constant([], tf.string), []), "context": tf.constant([], tf.string)}
    logits = {name: tf.zeros(features["token_ids"].shape) for name in ("start", "end")}
    answers = SpanPostprocessor()(logits, features)
    assert {name: tuple(answer.shape) for name, answer in answers.items()} == dict.fromkeys(
        ("score", "window", "start", "end", "answer"), (0,)
    )
    wide = {name: tf.zeros([0, 2, 5]) for name in ("start", "end")}
    features = {"offsets": tf.zeros([0, 2, 5, 2], tf.int32), "context": tf.constant([], tf.string)}
    assert SpanPostprocessor()(wide, features)["answer"].shape == (0,)


def test_a_tokenizer_without_places_is_refused():
    vocabulary = [["<unk>", 0.0], ["▁a", -2.0]]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary}
    unigrams = UnigramTokenizer({"model": model, "pre_tokenizer": space, "decoder": space})
    with pytest.raises(ValueError, match="BytePairTokenizer have, got UnigramTokenizer"):
        SpanPreprocessor(unigrams, 20, 5, 2)


def test_invalid_input_raises():
    with pytest.raises(ValueError, match="`answer_start` must be given with `answer`, got None"):
        span_layer()(["who"], ["ann"], ["ann"])
    with pytest.raises(ValueError, match="`context` must hold strings, got None at index 0"):
        span_layer()(["who"], [None])
    with pytest.raises(ValueError, match="`question` must hold strings, got nan at index 1"):
        span_layer()(["who", float("nan")], ["ann", "ann"])


@pytest.mark.shared_data
def test_every_answer_of_xquad_is_recovered(shared):
    """With a vocabulary of characters, every answer is recovered exactly."""
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
    for at in range(0, len(rows), 100):
        cut = slice(at, at + 100)
        features, labels, _ = layer(questions[cut], contexts[cut], answers[cut], starts[cut])
        texts = layer.answers(
            contexts[cut], features["offsets"][:, 0], labels["start"][:, 0], labels["end"][:, 0]
        )
        for text, answer in zip(texts.numpy(), answers[cut], strict=True):
            assert text.decode() == answer.strip()
