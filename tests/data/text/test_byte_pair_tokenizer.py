import random
import re
import string

import pytest
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from keras_attn.data import BytePairTokenizer, SpanPreprocessor, read_table, read_tokenizer
from tests.data.text.graphs import check_graphs, check_saved_model
from tests.data.text.test_tokenizer import CORPUS, UNUSUAL_WORDS

on_tensorflow = pytest.mark.backends(
    "tensorflow", reason="functional string models need TensorFlow"
)
SEEN = re.compile("[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
BEHIND = re.compile("[\u0300-\u036f\u093e-\u094d\u1160-\u11ff]")
LANGUAGES = ["en", "de", "zh"]
PARTS = [" ", "  ", "\n", "\t", "'", "s", "'ll", "a", "Z", "é", "1", "²", "_", ".", "😀", "ß", "中"]
PARTS += ["\u00a0", "\u2028", "\x00", "\x0b", "\x1c", "\x85", "\u0301", "६", "ש", "<|endoftext|>"]
PARTS += ["<mask>", "[new]", "\u180e", "\u3000", "\r\n"]
DRAW = random.Random(0)
UNUSUAL = [
    *UNUSUAL_WORDS,
    *("don't we'll I'd've", "'s  's", "a\u00a0\u00a0b", "trailing  ", "\r\n\r\n x", "a" * 301),
    "\u202eabc\u202c ‏שלום", "".join(map(chr, range(1, 0x250))), "६ ६६ Ĵ", "x\x00\x00 \x00y\x00",
    "ＦＵＬＬ FULL",
    *("".join(DRAW.choices(PARTS, k=DRAW.randint(1, 30))) for _ in range(200)),
]  # fmt: skip


def lines(step):
    table = read_table(CORPUS)
    return [text for language in LANGUAGES for text in table[language] if text][::step]


def trained(texts, size):
    """A tokenizer of the package tokenizers, with added tokens of every kind."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    made.add_tokens([tokenizers.AddedToken("[new]", rstrip=True, normalized=True)])
    made.add_tokens([tokenizers.AddedToken("   ", normalized=True)])
    made.add_tokens([tokenizers.AddedToken("ＦＵＬＬ", normalized=True)])
    return made


@pytest.fixture(scope="module")
def small():
    return trained(lines(211), 700)


def ours(theirs, tmp_path):
    theirs.save(str(tmp_path / "tokenizer.json"))
    return read_tokenizer(tmp_path)


def assert_same(theirs, own, texts):
    expected = [encoding.ids for encoding in theirs.encode_batch(texts)]
    got = own(tf.constant(texts))
    for text, mine, wanted in zip(texts, got.to_list(), expected, strict=True):
        assert mine == wanted, repr(text)
    backs = [text.decode() for text in own.detokenize(got).numpy()]
    assert backs == theirs.decode_batch(expected, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("size", "step"), [(700, 211), pytest.param(8192, 1, marks=pytest.mark.slow)]
)
def test_ids_and_texts_equal_tokenizers_on_the_corpus(size, step, tmp_path):
    texts = lines(step)
    theirs = trained(texts, size)
    own = ours(theirs, tmp_path)
    for begin in range(0, len(texts), 8192):
        assert_same(theirs, own, texts[begin : begin + 8192])


@pytest.mark.parametrize("normalizer", [None, "NFC", "NFKD"])
@pytest.mark.parametrize("space", [False, True])
def test_ids_equal_tokenizers_on_unusual_text(small, space, normalizer, tmp_path):
    theirs = tokenizers.Tokenizer.from_str(small.to_str())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    if normalizer:
        theirs.normalizer = getattr(normalizers, normalizer)()
    assert_same(theirs, ours(theirs, tmp_path), UNUSUAL)


@pytest.mark.slow
def test_every_code_point_is_split_as_by_tokenizers(small, tmp_path):
    own = ours(small, tmp_path)
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    texts = [f"a{c}a{c}1 {c}.{c}" for c in points]
    for begin in range(0, len(texts), 65536):
        assert_same(small, own, texts[begin : begin + 65536])


@pytest.mark.parametrize("size", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("letters", ["a", string.ascii_lowercase, "abcdefg  "])
def test_ids_of_long_strings_equal_tokenizers(small, letters, size, tmp_path):
    assert_same(small, ours(small, tmp_path), ["".join(random.Random(1).choices(letters, k=size))])


def test_overlapping_and_late_merge_rules_equal_tokenizers(tmp_path):
    # A rule that uses "abc" comes before the rule that makes it from "ab" and "c".
    merges = ["a a", "a b", "b c", "abc ab", "a bc", "ab c", "aa aa"]
    tokens = ["a", "b", "c", "aa", "bc", "ab", "abc", "abcab", "aaaa", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(tokens)}
    theirs = tokenizers.Tokenizer(models.BPE(ids, [tuple(m.split()) for m in merges]))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    draw = random.Random(2)
    texts = ["".join(draw.choices("abc", k=draw.randint(1, 20))) for _ in range(300)]
    own = ours(theirs, tmp_path)
    assert_same(theirs, own, [*texts, "a" * 23])
    assert BytePairTokenizer({"a": 0}, [])(["aba"]).to_list() == [[0, 0]]  # no rules


@pytest.mark.parametrize("unknown", [None, "U", "?"])
def test_bytes_without_a_token_are_merged_around_as_by_tokenizers(unknown, tmp_path):
    tokens = ["a", "b", "ab", "Ġ", "?", "U", "aU", "UU"]
    ids = {token: index for index, token in enumerate(tokens)}
    merges = [("a", "b"), ("U", "U"), ("a", "U")]
    theirs = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=unknown))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    texts = ["azb", "az", "zaz", "aéb a", "zz", "z", "zzz ab", "", "abz zab"]
    assert_same(theirs, ours(theirs, tmp_path), texts)


def test_invalid_bytes_become_the_replacement_character(small, tmp_path):
    own = ours(small, tmp_path)
    assert own(tf.constant([b"a\xff"])).to_list() == [small.encode("a\ufffd").ids]
    cut = small.encode("a😀").ids[:-1]
    assert own.detokenize([cut]).numpy()[0].decode() == small.decode(cut)


@on_tensorflow
def test_ids_in_graphs_and_saved_models_equal_eager_ids(small, tmp_path):
    own = ours(small, tmp_path)
    expected = own(UNUSUAL).to_list()
    check_graphs(own, UNUSUAL, expected, tmp_path)


def test_a_saved_model_uses_only_operations_of_old_servers(small, tmp_path):
    own = ours(small, tmp_path)
    check_saved_model(own, ["a\x00 b", "ß"], ["a\x00 b", "ß"], tmp_path)


def test_the_config_restores_the_tokenizer(small, tmp_path):
    own = ours(small, tmp_path)
    again = BytePairTokenizer.from_config(own.get_config())
    assert again.get_config() == own.get_config()
    assert again.vocabulary == own.vocabulary
    assert (own.cls_id, own.sep_id, own.pad_id, own.unk_id) == (0, 0, 0, 0)
    assert own.vocabulary[own.mask_id] == "<mask>"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocabulary": {"a": 1}}, "its 1 tokens the ids 0 to 0"),
        ({"merges": ["a z"]}, "`merges` must be two tokens .* got 'a z'"),
        ({"merges": ["a"]}, "`merges` must be two tokens .* got 'a'"),
        ({"added_tokens": [{"content": "z"}]}, "`added_tokens` must be in the vocabulary, got 'z'"),
        ({"added_tokens": [{"content": "a", "single_word": True}]}, "'a' with single_word"),
        (
            {"vocabulary": {"\0": 0}, "added_tokens": [{"content": "\0"}]},
            r"not contain a zero byte, got '\\x00'",
        ),
        ({"special_tokens": {"end": "a"}}, "the keys cls, sep, pad, unk, mask or .* got end"),
        ({"normalizer": "Lowercase"}, "None or one of NFC, NFD, NFKC, NFKD, got 'Lowercase'"),
    ],
)
def test_invalid_arguments_raise(wrong, message):
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer(**{"vocabulary": {"a": 0}, "merges": [], **wrong})


@pytest.mark.parametrize("normalizer", [None, "NFC"])
@pytest.mark.parametrize("space", [False, True])
def test_offsets_equal_tokenizers(small, space, normalizer, tmp_path):
    theirs = tokenizers.Tokenizer.from_str(small.to_str())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    theirs.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=space)
    if normalizer:
        theirs.normalizer = getattr(normalizers, normalizer)()
    texts = [*UNUSUAL, "e\u0301te\u0301 \u1112\u1161\u11ab", " <mask>  [new]  x"]
    parts = ours(theirs, tmp_path).tokenize_with_offsets(texts)
    parts = zip(*(part.to_list() for part in parts), strict=True)
    for text, own, wanted in zip(texts, parts, theirs.encode_batch(texts), strict=True):
        assert own[0] == wanted.ids
        for token, begin, end, (first, last) in zip(*own, wanted.offsets, strict=True):
            spelled = theirs.decode([token], skip_special_tokens=False)
            if not all(SEEN.search(part) for part in (spelled, text[first:last] or "a")):
                assert begin == end
                continue
            if space and first == last:  # the package takes the space in front out of the text
                assert begin < end
                continue
            while not SEEN.match(text[first]):  # the package does not trim the first token
                first += 1
            # Nor has it the accents that it composes with a letter.
            least, most = first, last
            while normalizer and least and BEHIND.match(text[least]):
                least -= 1
            while normalizer and most < len(text) and BEHIND.match(text[most]):
                most += 1
            least, first, last, most = (len(text[:n].encode()) for n in (least, first, last, most))
            assert least <= begin <= first < last <= end <= most, (repr(text), wanted.tokens)


def test_a_span_is_found_in_a_context_of_byte_pairs(small, tmp_path):
    small = tokenizers.Tokenizer.from_str(small.to_str())
    small.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>"])
    layer = SpanPreprocessor(ours(small, tmp_path), length=40, question_length=8, overlap=2)
    context, answer = "Ärger  mit 😀 naïve words, and more.", "😀 naïve"
    features, labels, _ = layer(["who"], [context], [answer], [context.index(answer)])
    place = labels["start"][:, 0], labels["end"][:, 0]
    found = layer.answers([context], features["offsets"][:, 0], *place)
    assert found.numpy()[0].decode() == answer
    _, begins, ends = layer.tokenizer.tokenize_with_offsets([context], whole_words=True)
    spelled = {context.encode()[b:e].decode() for b, e in zip(begins[0], ends[0], strict=True)}
    assert spelled - {""} == set(context.split())


def test_invalid_calls_raise():
    tokenizer = BytePairTokenizer({"a": 0}, [])
    with pytest.raises(ValueError, match=r"`text` must have the shape \[B\], got \(1, 1\)"):
        tokenizer([["a"]])
    with pytest.raises(ValueError, match="`ids` must be ids below the vocabulary's size 1, got 1"):
        tokenizer.detokenize([[1]])
    with pytest.raises(ValueError, match="`ids` must hold integers, got"):
        tokenizer.detokenize([[0.5]])
    with pytest.raises(ValueError, match="`ids` must hold integers, got"):
        tokenizer.tokens(tf.ragged.constant([[0.5]]))
    assert tokenizer.detokenize([[]]).numpy().tolist() == [b""]
    with pytest.raises(ValueError, match="must name a token under 'sep'"):
        _ = tokenizer.sep_id
