"""Directories of checkpoints against the tokenizers that transformers makes of them."""

import json

import pytest

from keras_attn.data import read_tokenizer

transformers = pytest.importorskip("transformers")

NAMES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[X]", "a", "b", "Ġ", "<", ">", "/", "s", "ab"]
IDS = {name: index for index, name in enumerate(NAMES)}
TEXTS = ["a <mask> b", "<s>ab</s>", "ab<pad>", " <mask>  <mask>", "[X] <unk>a"]
STRIPPED = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False}
NAMED = {"mask_token": "<mask>", "bos_token": "<s>", "eos_token": "</s>"}


def write(directory, **files):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(IDS))
    (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config": {"tokenizer_class": "RobertaTokenizer", **NAMED}},
        {"tokenizer_config": {"add_prefix_space": True, "mask_token": "[X]"}},
        {"special_tokens_map": {"mask_token": STRIPPED}},
        {"special_tokens_map": {"mask_token": "[X]"}, "tokenizer_config": NAMED},
        {
            "special_tokens_map": {"mask_token": "[X]"},
            "tokenizer_config": {
                "mask_token": "<mask>",
                "added_tokens_decoder": {"4": {**STRIPPED, "special": True}},
            },
        },
    ],
    ids=["bare", "config", "prefix", "map", "map over config", "listed"],
)
def test_vocabulary_and_merges_are_read_as_by_transformers(files, tmp_path):
    directory = write(tmp_path, **files)
    own, theirs = (
        read_tokenizer(directory),
        transformers.RobertaTokenizer.from_pretrained(directory),
    )
    wanted = [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert own(TEXTS).to_list() == wanted
    assert (own.cls_id, own.sep_id) == (theirs.cls_token_id, theirs.sep_token_id)
    assert (own.pad_id, own.mask_id) == (theirs.pad_token_id, theirs.mask_token_id)
    assert own.adds_cls


FILE = {
    "model": {"type": "BPE", "vocab": IDS, "merges": ["a b"]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
    "added_tokens": [],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": {**FILE["model"], "merges": [7]}},
        {"model": {**FILE["model"], "merges": [None]}},
        {"model": {**FILE["model"], "merges": [[1, 2]]}},
        {"model": {**FILE["model"], "vocab": {**IDS, "z": "14"}}},
        {"model": {**FILE["model"], "vocab": {**IDS, "z": None}}},
        {"model": "BPE"},
        {"added_tokens": [{"content": "a"}]},
        {"added_tokens": [{"id": 6}]},
        {"added_tokens": ["a"]},
        {"pre_tokenizer": [1]},
        {"normalizer": [1]},
        {"normalizer": {"type": "Sequence"}},
        {"post_processor": {"type": "TemplateProcessing", "single": []}},
        {"model": {"type": "Unigram", "vocab": [1], "unk_id": 0}},
    ],
)
def test_an_odd_file_is_named(wrong, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**FILE, **wrong}))
    for path in (file, tmp_path):
        with pytest.raises(ValueError, match=str(path)):
            read_tokenizer(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"bos_token": 7},
        {"bos_token": {"x": 7}},
        {"added_tokens_decoder": {"x": {"content": "q"}}},
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"5": {"special": True}}},
    ],
)
def test_odd_settings_are_named(settings, tmp_path):
    directory = write(tmp_path, tokenizer_config=settings)
    with pytest.raises(ValueError, match="tokenizer_config.json"):
        read_tokenizer(directory)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"got {tmp_path / 'none'}, where nothing is"):
        read_tokenizer(tmp_path / "none")
    write(tmp_path)
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "merges.txt").mkdir()
    with pytest.raises(ValueError, match="merges.txt must be as transformers .* IsADirectoryError"):
        read_tokenizer(tmp_path)
