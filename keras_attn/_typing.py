"""What annotations call the arguments and results that have no class of their own.

They are for the reader; the docstrings give the shapes and dtypes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras

# A tensor of the backend, one of Keras (symbolic, or a variable), or an array; where a function
# converts its arguments, also lists of numbers or strings. The three backends have no common base
# class, so that it is `Any` to a type checker.
Tensor: TypeAlias = Any

# A tensor, or tensors in dicts, lists and tuples at any depth, as `keras.tree` walks them.
Nested: TypeAlias = Any

# A length or a position: an integer, or a scalar tensor where it is only known at run time.
Size: TypeAlias = int | Tensor

# The size of each axis; None where it may vary.
Shape: TypeAlias = tuple[Any, ...]

# What Keras takes as the `dtype` of a layer: a name, or a policy for its weights and computation.
DType: TypeAlias = str | keras.DTypePolicy | None

# The arguments of a constructor, as `get_config` gives and `from_config` takes them; the content of
# any file of JSON.
Config: TypeAlias = dict[str, Any]

# What a decoding step takes and gives: tensors at any depth, batch first, that only a model reads.
Cache: TypeAlias = Any

# What Keras makes a function of: its name, its saved configuration, or the function or object.
Activation: TypeAlias = str | Config | Callable[..., Tensor] | None
Initializer: TypeAlias = str | Config | Callable[..., Tensor] | None
Regularizer: TypeAlias = str | Config | Callable[..., Tensor] | None
Constraint: TypeAlias = str | Config | Callable[..., Tensor] | None
