"""Private names of other packages stand in `keras_attn/_keras.py` only."""

import ast
import contextlib
import importlib
import inspect
import pathlib
import re
import textwrap

import pytest

import keras_attn

SOURCE = pathlib.Path(keras_attn.__file__).parent
ROOT = SOURCE.parent
HOME = SOURCE / "_keras.py"
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != HOME]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GUIDES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("README*.md"))]
MODULES = ("keras.src", "keras_hub.src", "tensorflow.python", "jax._src", "torch._")
# Functions that take the name of an attribute.
BY_NAME = ("getattr", "hasattr", "setattr", "delattr")
# The methods of a NamedTuple are public in spite of their names.
NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}
# Files that import another backend than that of the run.
OF_ONE_BACKEND = ("_jax", "_tf", "_torch")


def relative(path):
    return str(path.relative_to(ROOT))


def is_private(name):
    return re.match("_[a-zA-Z]", name) is not None


def private_names(tree):
    """Each private attribute that is read or written, also by `getattr` and its like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Call):
            names = map(beginning, names_given(node))
            yield from (name for name in names if name == "_" or is_private(name))


def defined_names(tree):
    """The names of the functions, classes and variables, and of the attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Call) and ast.unparse(node).startswith("setattr(self, "):
            yield from map(beginning, names_given(node))


def names_given(call):
    """The arguments of a call that are names of attributes."""
    function = ast.unparse(call.func).split(".")[-1]
    return call.args if function == "attrgetter" else call.args[1:2] * (function in BY_NAME)


def beginning(argument):
    """The text with which an argument begins, empty if that is not written in the call."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    return str(argument.value) if isinstance(argument, ast.Constant) else ""


def parse(path):
    return ast.parse(path.read_text())


def parts_of(path):
    return path.relative_to(ROOT).parts[:2]


OWN = {path: set(filter(is_private, defined_names(parse(path)))) for path in (*FILES, *EXAMPLES)}


@pytest.mark.parametrize("path", (*FILES, *EXAMPLES), ids=relative)
def test_a_private_attribute_is_one_that_its_own_package_defines(path):
    own = set().union(*(names for other, names in OWN.items() if parts_of(other) == parts_of(path)))
    assert set(private_names(parse(path))) <= own | NAMED_TUPLE


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_class_uses_a_private_name_of_a_base_from_elsewhere(path):
    """Where both have the name, the attribute is that of the base, by intent or by accident."""
    classes = [node for node in parse(path).body if isinstance(node, ast.ClassDef)]
    if not any(node.bases for node in classes) or path.stem.endswith(OF_ONE_BACKEND):
        return
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = importlib.import_module(name.removesuffix(".__init__"))
    for node in classes:
        bases = [base for base in getattr(module, node.name).__mro__ if is_foreign(base)]
        theirs = set().union(*map(names_of_class, bases))
        ours = {*private_names(node), *filter(is_private, defined_names(node))}
        assert not ours & theirs, node.name


def is_foreign(kind):
    return kind.__module__.split(".")[0] not in ("keras_attn", "builtins", "typing")


def names_of_class(kind):
    names = set(filter(is_private, vars(kind)))
    with contextlib.suppress(OSError, TypeError):  # a class without Python code
        names.update(defined_names(ast.parse(textwrap.dedent(inspect.getsource(kind)))))
    return set(filter(is_private, names))


@pytest.mark.parametrize("path", (*FILES, *EXAMPLES), ids=relative)
def test_no_private_module_is_named(path):
    assert not [name for name in MODULES if name in path.read_text()]


@pytest.mark.parametrize("path", GUIDES, ids=relative)
def test_no_guide_teaches_a_private_name(path):
    assert not re.findall(r"\w\)?\._[a-z]\w*", path.read_text())
