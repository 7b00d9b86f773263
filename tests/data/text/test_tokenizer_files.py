"""Directories of checkpoints against the tokenizers that transformers makes of them."""

import json

import pytest

from keras_attn.data import read_tokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

NAMES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[X]", "a", "b", "Ġ", "<", ">", "/", "s", "ab"]
IDS = {name: index for index, name in enumerate(NAMES)}
TEXTS = ["a <mask> b", "<s>ab</s>", "ab<pad>", " <mask>  <mask>", "[X] <unk>a"]
STRIPPED = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False}
ROBERTA = {f"{role}_token": NAMES[i] for i, role in enumerate(("cls", "pad", "sep", "unk", "mask"))}
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
        {"tokenizer_config": {"additional_special_tokens": ["[X]"], **NAMED}},
        {"tokenizer_config": {"extra_special_tokens": {"image_token": "[X]"}}},
        {"tokenizer_config": {"image_token": "[X]"}},
        {
            "tokenizer_config": {"extra_special_tokens": ["[X]"]},
            "special_tokens_map": {"extra_special_tokens": ["ab"]},
        },
        {"added_tokens": {"<c>": 14, "a <": 15}, "special_tokens_map": {"mask_token": "<c>"}},
    ],
    ids=[
        *("bare", "config", "prefix", "map", "map over config", "listed"),
        *("additional", "extra by name", "other key", "extra in both", "added"),
    ],
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


@pytest.mark.parametrize(
    "settings",
    [
        {"extra_special_tokens": ["[X]"], "mask_token": "ab"},
        {"added_tokens_decoder": {"14": {"content": "<c>", "special": False, "rstrip": True}}},
        {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True, **ROBERTA},
        {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True},
    ],
)
def test_settings_in_the_folder_of_a_tokenizer_json_are_read_as_by_transformers(settings, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(FILE))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = getattr(transformers, settings["tokenizer_class"]).from_pretrained(tmp_path)
    texts = [*TEXTS, "a<c> b"]
    wanted = [theirs(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert read_tokenizer(tmp_path)(texts).to_list() == wanted


def test_added_tokens_of_a_unigram_file_include_those_of_the_settings(tmp_path):
    theirs = tokenizers.Tokenizer(
        tokenizers.models.Unigram([("<unk>", 0.0), *((c, -2.0) for c in "▁a<c>[X]")], 0)
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    theirs.decoder = tokenizers.decoders.Metaspace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=theirs, extra_special_tokens=["<c>", "[X]"], unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "[X]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    number = fast.convert_tokens_to_ids("[X]")
    settings["added_tokens_decoder"] = {number: {"content": "[X]", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    texts = ["a<c>a [X]", "[X]"]
    wanted = [fast(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert read_tokenizer(tmp_path)(texts).to_list() == wanted


def test_special_tokens_without_an_id_or_that_are_split_raise(tmp_path):
    write(tmp_path / "new", tokenizer_config={"additional_special_tokens": ["<new>"]})
    with pytest.raises(ValueError, match="must be in the vocabulary, got '<new>'"):
        read_tokenizer(tmp_path / "new")
    write(tmp_path / "split", tokenizer_config={"split_special_tokens": True})
    with pytest.raises(ValueError, match="split_special_tokens must be false, got true"):
        read_tokenizer(tmp_path / "split")


FILE = {
    "model": {"type": "BPE", "vocab": IDS, "merges": ["a b"]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "added_tokens": [],
    "version": "1.0",
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
def test_an_invalid_tokenizer_json_raises_with_its_path(wrong, tmp_path):
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
        {"extra_special_tokens": 7},
    ],
)
def test_invalid_settings_raise_with_their_file(settings, tmp_path):
    directory = write(tmp_path, tokenizer_config=settings)
    with pytest.raises(ValueError, match="tokenizer_config.json"):
        read_tokenizer(directory)


def test_missing_files_raise(tmp_path):
    with pytest.raises(ValueError, match=f"got {tmp_path / 'none'}, which does not exist"):
        read_tokenizer(tmp_path / "none")
    write(tmp_path)
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "merges.txt").mkdir()
    with pytest.raises(ValueError, match="merges.txt must be as transformers .* IsADirectoryError"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("decoder", ["BPEDecoder", "Fuse", "WordPiece"])
def test_a_decoder_other_than_byte_level_raises(decoder, tmp_path):
    """It gives another text."""
    file, text = tmp_path / "tokenizer.json", "ab a b"
    theirs = tokenizers.Tokenizer.from_str(json.dumps(FILE))
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.save(str(file))
    own, ids = read_tokenizer(file), theirs.encode(text).ids
    assert own.detokenize([ids]).numpy()[0].decode() == theirs.decode(ids) == text
    theirs.decoder = getattr(tokenizers.decoders, decoder)()
    assert theirs.decode(ids) != text
    theirs.save(str(file))
    with pytest.raises(ValueError, match=f"the decoder must be ByteLevel or null, got {decoder}"):
        read_tokenizer(file)
