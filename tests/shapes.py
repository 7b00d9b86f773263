"""A run-time check of the shapes that the docstrings of `keras_attn.ops` declare.

A docstring says `query: float `[B, T, N, H]`.`, and a letter has one value in one call. `install`
wraps every public function of `ops` with such a docstring, wherever it was imported, so that a
wrong docstring, or a function that returns another shape, fails the tests that call it.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import sys

import keras_attn.ops

SHAPE = r"`\[([^]`]+)\]`"
ARGUMENT = re.compile(r"^        (\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)


def install():
    """Wrap the public functions."""
    wrapped = {}
    for found in pkgutil.iter_modules(keras_attn.ops.__path__, "keras_attn.ops."):
        module = importlib.import_module(found.name)
        for name, function in vars(module).items():
            own = inspect.isfunction(function) and function.__module__ == found.name
            public = own and not name.startswith("_") and not hasattr(function, "__wrapped__")
            if public and (shapes := documented(function)):
                wrapped[function] = checked(function, *shapes)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("keras_attn.", "tests.")):
            for name, value in list(vars(module).items()):
                if inspect.isfunction(value) and value in wrapped:
                    setattr(module, name, wrapped[value])
    return wrapped


def documented(function):
    """`(shapes of the arguments, shapes of the result)`, or None where the docstring has none.

    An argument has a list of alternatives, a result one shape for each tensor.
    """
    text = inspect.getdoc(function) or ""
    if "Args:" not in text or "Returns:" not in text:
        return None
    text = "    " + text.replace("\n", "\n    ")
    arguments, rest = text.split("Args:", 1)[1].split("Returns:", 1)
    result = re.split(r"\n    \w+:", rest)[0]
    given = {
        name: (re.findall(SHAPE, described), "broadcastable" in described)
        for name, described in ARGUMENT.findall(arguments)
    }
    given = {name: shapes for name, shapes in given.items() if shapes[0]}
    return (given, re.findall(SHAPE, result)) if given else None


def checked(function, arguments, results):
    """`function`, with a check of argument and result shapes after each call."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)  # first, so that the function raises its own errors
        letters = {}
        given = signature.bind(*args, **kwargs).arguments
        for name, (shapes, broadcastable) in arguments.items():
            held = [hold(letters, shape, given.get(name), broadcastable) for shape in shapes]
            found = next((letters for letters in held if letters is not None), None)
            assert found is not None, _message(function, name, shapes, given[name], letters)
            letters = found
        tensors = result if isinstance(result, tuple) else (result,)
        for tensor, shape in zip(tensors, results, strict=False):
            found = hold(letters, shape, tensor)
            assert found is not None, _message(function, "the result", shape, tensor, letters)
        return result

    return call


def hold(letters, shape, tensor, broadcastable=False):
    """The values of the letters, with those that `tensor` adds; None if the shape differs."""
    have = getattr(tensor, "shape", None)
    if have is None or getattr(have, "rank", 0) is None:  # a number, a list, an unknown rank
        return letters
    have, want = list(have), [axis.strip() for axis in shape.split(",")]
    if broadcastable:
        want = want[len(want) - len(have) :] if len(have) <= len(want) else want
    if want[:1] == ["..."]:
        want = want[1:]
        have = have[len(have) - len(want) :]
    if len(have) != len(want):
        return None
    letters = dict(letters)
    for size, axis in zip(have, want, strict=True):
        if not isinstance(size, int) or (size == 1 and (broadcastable or axis.endswith("or 1"))):
            continue  # known only when the graph runs
        axis = axis.removesuffix(" or 1")
        if re.fullmatch("[A-Z][a-z]?", axis):
            axis = letters.setdefault(axis, size)
        elif set(re.findall("[A-Z][a-z]?", axis)) - set(letters):
            continue  # a term with letters that have no value yet
        if size != eval(str(axis), {}, letters):  # noqa: S307
            return None
    return letters


def _message(function, what, shapes, tensor, letters):
    name = f"{function.__module__}.{function.__name__}"
    return f"{name}: {what} is documented as {shapes}, got {tuple(tensor.shape)} where {letters}"
