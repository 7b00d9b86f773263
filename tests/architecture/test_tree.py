"""The source tree follows docs/design.md."""

import ast
import importlib
import inspect
import pathlib
import re
import statistics

import keras
import pytest

import keras_attn
from tests.cases import CASES

SOURCE = pathlib.Path(keras_attn.__file__).parent
ROOT = SOURCE.parent
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("test_*.py"))
# The tests in these folders cover more than one source file.
WIDE = ("contract", "architecture", "examples", "saved")
# These tests cover several source files of their folder.
TOPICS = (
    "test_any_model",
    "test_bad_input",
    "test_exact_resume",
    "test_gpu",
    "test_grid",
    "test_kernels",
    "test_kinds",
    "test_loading_errors",
    "test_real_checkpoint",
    "test_remat",
    "test_task_preprocessors",
)
# Short layers that share a base class or a task are in one file.
FAMILIES = {
    "task_heads": ["ClassificationHead", "TokenTaggingHead", "MultipleChoiceHead", "SpanHead"],
    "bert_pretraining_head": ["NextSentenceHead", "BertPretrainingHead"],
}
# These may import a backend (`weights` reads TensorFlow's checkpoints, `_keras` has TensorFlow's
# private names); elsewhere only a file that is named for it, in `backend` or among the kernels.
BACKEND_PACKAGES = ("data", "export", "weights", "_keras.py")
BACKENDS = {"tensorflow": ("tf", "tensorflow"), "jax": ("jax",), "torch": ("torch",)}


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_is_longer_than_350_lines(path):
    assert len(path.read_text().splitlines()) <= 350


def test_few_files_are_shorter_than_50_lines():
    files = [path for path in FILES if path.name != "__init__.py"]
    lengths = [len(path.read_text().splitlines()) for path in files]
    assert 120 <= statistics.median(lengths) <= 200
    assert sum(length < 50 for length in lengths) <= len(lengths) / 6


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_test_files_mirror_the_source_tree(path):
    package, *_ = path.relative_to(ROOT / "tests").parts
    if package not in WIDE:
        folder = SOURCE / path.relative_to(ROOT / "tests").parent
        assert folder.is_dir()
        source = folder / path.stem.removeprefix("test_")
        private = source.with_name(f"_{source.name}")
        assert (
            path.stem in TOPICS
            or source.is_dir()
            or any(file.with_suffix(".py").is_file() for file in (source, private))
        )


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_backend_files_and_backend_packages_import_a_backend(path):
    if path.relative_to(SOURCE).parts[0] in BACKEND_PACKAGES:
        return
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    file_of_backend = path.stem if path.parent == SOURCE / "backend" else None
    for backend, suffixes in BACKENDS.items():
        if backend in imported and backend != file_of_backend:
            assert path.stem.endswith(tuple(f"_{suffix}" for suffix in suffixes))


LAYER_NAMES = ("block_", "encoder_", "decoder_", "bridge_", "embedding", "pooler", "head")


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_models_parts_finds_layers_by_name(path):
    if path == SOURCE / "models" / "parts.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            assert ast.unparse(node.left) not in ("layer.name", "part.name"), ast.unparse(node)
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        name = ast.unparse(node.args[0]).lstrip("f\"'(")
        literal = isinstance(node.args[0], (ast.Constant, ast.JoinedStr, ast.Tuple))
        assert not (node.func.attr == "get_layer" and literal), ast.unparse(node)
        finds = node.func.attr in ("startswith", "removeprefix")
        assert not (finds and name.startswith(LAYER_NAMES)), ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py" or path.read_text().strip():
        assert ast.get_docstring(tree), "the module"
    kinds = (ast.FunctionDef, ast.ClassDef)
    for node in [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]:
        assert ast.get_docstring(node), node.name
        for inner in [n for n in node.body if isinstance(n, ast.FunctionDef)]:
            if isinstance(node, ast.ClassDef) and not inner.name.startswith("_"):
                assert ast.get_docstring(inner), f"{node.name}.{inner.name}"


# Verbs in the third person; none is also a plural with which a docstring may begin.
THIRD_PERSON = re.compile(
    r"(Add|Answer|Applie|Build|Call|Check|Close|Compute|Convert|Create|Cut|Doe|Draw|Fill|Find|Give|"
    r"Join|Keep|Load|Make|Merge|Normalize|Pack|Parse|Print|Publishe|Raise|Read|Remove|Rename|"
    r"Replace|Reshape|Restore|Return|Save|Send|Set|Split|Switche|Take|Train|Trie|Turn|Wait|Wrap|"
    r"Write|Yield)s\b"
)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_docstrings_are_imperative_and_name_their_source_alike(path):
    """Functions say what to do ("Return"), classes what they are; a paper is under "Source:"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            docstring = ast.get_docstring(node) or ""
            assert not THIRD_PERSON.match(docstring), node.name
            assert not re.search(r"^(References?|Sources):", docstring, re.MULTILINE), node.name


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_letters_of_shapes_have_one_header(path):
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    if re.search(r"^[B-Z] [a-z]", docstring, re.MULTILINE):
        assert re.search(r"^Letters: ", docstring, re.MULTILINE)


@pytest.mark.parametrize("case", {c.layer: c for c in CASES}.values(), ids=str)
def test_layer_docstrings_have_every_section(case):
    """Every argument has an entry in its section; a layer with masks has a section on masking."""
    sections = sections_of(inspect.getdoc(case.layer))
    for name in ("Call arguments", "Returns", "Raises", "Source", "Example"):
        assert sections[name].strip(), name
    call = inspect.signature(case.layer.call).parameters.keys() - {"self"}
    assert "Masking" in sections or not any(name.endswith("mask") for name in call)
    bases = case.layer.__mro__[1:]  # Keras explains what is Keras' own
    theirs = next((base for base in bases if base.__name__ == case.layer.__name__), None)
    for title, names in (("Args", case.parameters().keys()), ("Call arguments", call)):
        section = sections.get(title, "")
        explained = entries(section)
        assert len(explained) == len(set(explained)) and set(explained) <= names
        rest = names - set(explained)
        if theirs is not None and "as in Keras" in section:
            function = theirs.__init__ if title == "Args" else theirs.call
            rest -= inspect.signature(function).parameters.keys()
        assert not rest


def sections_of(docstring):
    """The text of each section of a docstring, by its title."""
    parts = re.split(r"^(\w[\w ]*):(?=\s)", docstring, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section):
    """The names that a section explains: those before the colon of each entry."""
    lines = re.findall(r"^ {4}(?=\S)([^:]+):", section, flags=re.MULTILINE)
    return [name for line in lines for name in line.split(", ")]


@pytest.mark.parametrize("case", {c.layer: c for c in CASES}.values(), ids=str)
def test_each_layer_file_holds_one_public_layer_or_one_family(case):
    module = importlib.import_module(case.layer.__module__)
    public = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]
    name = module.__name__.rsplit(".", 1)[-1]
    if name in FAMILIES:
        assert public == FAMILIES[name]
    else:
        assert public == [case.layer.__name__]
        assert name.replace("_", "") == case.layer.__name__.lower()


def test_layers_are_registered_under_the_package_name():
    for case in CASES:
        name = keras.saving.get_registered_name(case.layer)
        assert name == f"keras_attn>{case.layer.__name__}"


def test_the_package_has_a_py_typed_marker():
    assert (SOURCE / "py.typed").is_file()


def uses_of_any(path):
    """How often annotations have `Any`, apart from those of `*args` and `**kwargs`."""
    tree = ast.parse(path.read_text())
    passed_on = {
        id(star.annotation)
        for node in ast.walk(tree)
        if isinstance(node, ast.arguments)
        for star in (node.vararg, node.kwarg)
        if star is not None
    }
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Any"]
    return sum(id(name) not in passed_on for name in names)


def test_any_is_an_exception():
    """`Any` tells a reader nothing, and lets a type checker find nothing.

    It is for values that are passed on unchanged and for foreign objects without a class to name,
    such as messages of protobuf. What most functions take has a name in `keras_attn/_typing.py`.
    Raise the bounds only for another such value.
    """
    uses = {relative(path): uses_of_any(path) for path in FILES}
    assert max(uses.values()) <= 14
    assert sum(uses.values()) <= 180
