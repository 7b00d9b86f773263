"""Every constructor argument is an attribute and a config key, and a config rebuilds the layer."""

import inspect

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers
from tests.backend import arrays, computed
from tests.cases import CALLED, CASES, built, few_but_on_torch, randomized


def test_every_public_layer_has_a_case():
    assert {case.layer for case in CASES} == {getattr(layers, name) for name in layers.__all__}


@pytest.mark.parametrize("name", layers.__all__)
def test_cases_cover_every_argument_with_a_non_default_value(name):
    cases = [case for case in CASES if case.layer is getattr(layers, name)]
    given = {
        argument
        for case in cases
        for argument, value in case.arguments().items()
        if value != case.parameters()[argument].default
    }
    assert given == set(cases[0].parameters())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_argument_is_an_attribute_and_in_the_config(case):
    arguments = case.arguments()
    layer = case.layer(**arguments)
    config, base = layer.get_config(), keras.layers.Layer.get_config(layer)
    own = set(case.parameters())
    assert set(config) - (set(base) - own) == own
    for name, value in arguments.items():
        # Keras has attributes of its own with these two names.
        hidden = name in ("output_shape", "activity_regularizer")
        kept = config[name] if hidden else getattr(layer, name)
        assert described(kept) == described(as_attribute(name, value)), name


def as_attribute(name, value):
    """What a layer keeps of an argument: the object that Keras knows under a name."""
    for kind in ("activation", "initializer", "regularizer", "constraint"):
        if name.endswith(kind):
            return getattr(keras, f"{kind}s").get(value)
    return value


def described(value):
    """Numbers and names as they are, objects by what they are made of."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    return keras.saving.serialize_keras_object(value)


def counts(case):
    """The case's integer arguments, without the seed."""
    return {n: v for n, v in case.arguments().items() if type(v) is int and n != "seed"}


POSITIVE = "layer_norm_epsilon", "max_wavelength"


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in CASES for name in POSITIVE if name in case.parameters()],
    ids=str,
)
def test_a_value_that_is_not_positive_raises(case, name):
    for value in (0.0, -1e-6, "1e-6"):
        with pytest.raises(ValueError, match=f"`{name}` must be positive, got {value!r}"):
            case.layer(**case.arguments() | {name: value})


COUNTING = [case for case in CALLED if counts(case)]


@pytest.mark.parametrize("case", COUNTING, ids=str)
def test_numpy_integers_are_accepted_and_stored_as_int(case):
    layer = case.build(case.make(**{name: np.int64(value) for name, value in counts(case).items()}))
    config = layer.get_config()
    assert {name: (type(config[name]), config[name]) for name in counts(case)} == {
        name: (int, value) for name, value in counts(case).items()
    }


@pytest.mark.parametrize("case", COUNTING, ids=str)
def test_a_count_that_is_not_an_integer_raises(case):
    for name in counts(case):
        optional = case.parameters()[name].default is None
        for wrong in (True, 2.0, "2", *([] if optional else [None])):
            with pytest.raises(ValueError, match=f"`{name}` must be .*integer.*, got {wrong!r}"):
                case.make(**{name: wrong})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_serialization_round_trip_keeps_the_config(case):
    layer = case.make()
    text = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(text)
    assert type(again) is case.layer
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("case", few_but_on_torch(CALLED))
def test_a_layer_rebuilt_from_its_config_computes_the_same(case):
    layer = built(case)
    again = case.build(case.layer.from_config(layer.get_config()))
    again.set_weights(layer.get_weights())
    tree.map_structure(
        np.testing.assert_array_equal,
        computed(again, **case.values()),
        computed(layer, **case.values()),
    )


@pytest.mark.parametrize(
    "case", few_but_on_torch([c for c in CALLED if c.arguments().get("seed") is not None])
)
def test_the_seed_makes_dropout_reproducible(case):
    def train():
        # The dropout's own seed decides, not the global one; a seed lost on reload would show too.
        layer = randomized(case.layer.from_config(case.make().get_config()), case)
        return arrays(layer(**case.values(), training=True))

    first, second = tree.flatten(train()), tree.flatten(train())
    at_inference = tree.flatten(computed(built(case), **case.values()))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(not np.allclose(a, b) for a, b in zip(first, at_inference, strict=True))


def test_case_inputs_are_call_arguments():
    for case in CALLED:
        assert set(case.inputs) <= set(inspect.signature(case.layer.call).parameters), case
