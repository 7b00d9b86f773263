import json

import pytest
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from keras_attn import data, export, weights
from keras_attn.models import bert
from tests.export import small
from tests.weights.conftest import torch, transformers

pytestmark = pytest.mark.backends("tensorflow", reason="what is served is a TensorFlow graph")

TEXTS = ["Play the cat", "", "the  mat. 😀", "a", "<|endoftext|>sat"]
SIZES = {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 29}


def trained():
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" ".join(small.WORDS)] * 9, trainer)
    return made


@pytest.fixture
def gpt2(tmp_path):
    """The transformers model and tokenizer, and the directory of both."""
    theirs = trained()
    fast = transformers.GPT2TokenizerFast(tokenizer_object=theirs)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    # The matrix has more rows than there are tokens.
    config = transformers.GPT2Config(**SIZES, **ends, vocab_size=theirs.get_vocab_size() + 3)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    model.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    return model, fast, tmp_path


def test_a_served_gpt2_directory_generates_as_transformers(gpt2):
    model, fast, directory = gpt2
    loaded = weights.load(directory)
    generation = export.Generation(loaded.tokenizer, 9, 7, searches=["greedy"])
    made = export.publish(loaded.model, directory / "served", generation=generation)
    served = tf.saved_model.load(str(made.path)).signatures["serving_default"]
    got = served(text=tf.constant(TEXTS), max_new_tokens=tf.fill([len(TEXTS)], 7))["text"]
    for text, ours in zip(TEXTS, got.numpy(), strict=True):
        ids = torch.tensor([fast(text)["input_ids"] or [0]])
        mask = torch.ones_like(ids)
        with torch.no_grad():
            written = model.generate(
                ids, attention_mask=mask, max_new_tokens=7, do_sample=False, pad_token_id=0
            )
        new = [index for index in written[0, ids.shape[1] :].tolist() if index < len(fast)]
        assert ours.decode() == fast.decode(new, skip_special_tokens=True), text


def test_older_tokenizer_files_give_the_same_tokenizer(gpt2):
    _, fast, directory = gpt2
    expected = weights.load(directory).tokenizer(TEXTS).to_list()
    assert expected == [fast(text)["input_ids"] for text in TEXTS]
    fast.backend_tokenizer.model.save(str(directory))
    (directory / "tokenizer.json").unlink()
    assert weights.load(directory).tokenizer(TEXTS).to_list() == expected
    (directory / "merges.txt").unlink()
    with pytest.raises(ValueError, match="or vocab.json and merges.txt, has no merges.txt"):
        _ = weights.load(directory).tokenizer


def test_a_vocabulary_larger_than_the_model_raises(gpt2):
    _, _, directory = gpt2
    loaded = weights.load(directory)
    larger = trained()
    larger.add_tokens([f"new{number}" for number in range(4)])
    larger.save(str(directory / "tokenizer.json"))
    with pytest.raises(ValueError, match="must have a row for each"):
        weights.load(directory)
    generation = export.Generation(loaded.tokenizer, 9, 7, searches=["greedy"])
    with pytest.raises(ValueError, match="`generation` must have the model's vocabulary of"):
        export.publish(loaded.model, directory / "served", generation=generation)


def test_a_bert_directory_gives_its_tokenizer(tmp_path):
    model = bert.encoder("bert_tiny", vocabulary_size=20)
    weights.save(model, tmp_path, vocabulary=small.VOCABULARY, lowercase=False)
    tokenizer = weights.load(tmp_path).tokenizer
    assert isinstance(tokenizer, data.BertTokenizer)
    assert (tokenizer.vocabulary, tokenizer.lowercase) == (small.VOCABULARY, False)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config", {"strip_accents": False}, "strip_accents must be True .* got False"),
        ("tokenizer_config", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars must be"),
        ("tokenizer_config", {"extra_special_tokens": ["[E1]"]}, r"added tokens must .*'\[E1\]'"),
        ("special_tokens_map", {"additional_special_tokens": ["<e>"]}, "added tokens must .*'<e>'"),
        ("tokenizer_config", {"added_tokens_decoder": {"5": {"content": "cat"}}}, "got 'cat'"),
        ("tokenizer_config", {"unk_token": "[MASK]"}, r"unk_token must be '\[UNK\]' .*'\[MASK\]'"),
        ("tokenizer", {"model": {"unk_token": "[MASK]"}}, r"unk_token must be '\[UNK\]'"),
        ("tokenizer_config", {"cls_token": "[SEP]"}, r"cls_token must be '\[CLS\]' .*'\[SEP\]'"),
        ("special_tokens_map", {"sep_token": "[CLS]"}, r"sep_token must be '\[SEP\]'"),
        ("tokenizer", {"model": {"type": "WordLevel"}}, "the model must be 'WordPiece'"),
        ("tokenizer", {"normalizer": {"type": "NFC"}}, "normalizer must be 'BertNormalizer'"),
    ],
)
def test_a_bert_directory_with_unsupported_tokenizer_settings_raises(
    file, content, message, tmp_path
):
    vocabulary = [*small.VOCABULARY[:5], "cat", "the"]
    model = bert.encoder("bert_tiny", vocabulary_size=20)
    weights.save(model, tmp_path / "first", vocabulary=vocabulary, lowercase=True)
    path = tmp_path / "first" / f"{file}.json"
    own = json.loads(path.read_text()) if path.exists() else {}
    (tmp_path / "first" / f"{file}.json").write_text(json.dumps({**own, **content}))
    loaded = weights.load(tmp_path / "first")
    with pytest.raises(ValueError, match=message):
        _ = loaded.tokenizer
    # Files that would give other ids are not written.
    weights.save(loaded, tmp_path / "again")
    assert not (tmp_path / "again" / "vocab.txt").exists()


@pytest.mark.parametrize(
    ("part", "wrong", "message"),
    [
        ("model", {"type": "WordLevel"}, "the model must be BPE or Unigram, got WordLevel"),
        (
            "model",
            {"type": "BPE", "vocab": {"a": 0}},
            "must have vocab and merges, got type, vocab",
        ),
        (
            "model",
            {"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"},
            "end_of_word_suffix must be '' or null, got '</w>'",
        ),
        (
            "pre_tokenizer",
            {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]},
            "must be ByteLevel with use_regex, got Sequence of Split, ByteLevel",
        ),
        ("normalizer", {"type": "Lowercase"}, "null or one of NFC, NFD, NFKC, NFKD, got Lowercase"),
    ],
)
def test_an_unsupported_tokenizer_file_raises(part, wrong, message, tmp_path):
    content = json.loads(trained().to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, part: wrong}))
    with pytest.raises(ValueError, match=message):
        data.read_tokenizer(tmp_path)
