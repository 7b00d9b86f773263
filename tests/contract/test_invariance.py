"""What must not change the output, and what must."""

import keras
import numpy as np
import pytest
from keras import tree

from keras_attn import layers
from tests.backend import arrays, computed, layer_gradients, tensors, whole
from tests.cases import CALLED, B, built, few_but_on_torch

HIDING = [(case, mask) for case in CALLED for mask in case.hides]
EXTRA = 3


def call(case, values, **options):
    return computed(built(case), **values, **options)


def assert_same(one, other, **tolerance):
    tolerance = {"rtol": 1e-5, "atol": 1e-5, **tolerance}
    for have, want in zip(tree.flatten(one), tree.flatten(other), strict=True):
        np.testing.assert_allclose(have, want, **tolerance)


def visible(outputs, mask):
    """The outputs at unmasked positions, where the mask has the output's leading axes."""
    return [
        output[mask] if output.shape[: mask.ndim] == mask.shape else output
        for output in tree.flatten(outputs)
    ]


@pytest.mark.parametrize("case", few_but_on_torch([case for case in CALLED if case.scores]))
def test_returning_attention_scores_does_not_change_the_output(case):
    values = case.values()
    assert_same(call(case, values, return_attention_scores=True)[0], call(case, values))


@pytest.mark.parametrize(
    "case", few_but_on_torch([c for c in CALLED if "dropout" in c.arguments()])
)
def test_dropout_has_no_effect_at_inference(case):
    rates = {name: 0.0 for name in case.arguments() if name.endswith("dropout")}
    without, values = case.make(**rates), case.values()
    case.build(without).set_weights(built(case).get_weights())
    for options in ({}, {"training": False}):
        assert_same(call(case, values, **options), computed(without, **values), rtol=0, atol=0)


def hidden_replaced(case, mask, values, by):
    """The values with `by` at the masked positions."""
    name, shown = case.hides[mask], values[mask]
    return {**values, name: np.where(shown[..., None], values[name], by).astype("float32")}


@pytest.mark.parametrize(("case", "mask"), few_but_on_torch(HIDING))
def test_values_at_masked_positions_do_not_change_the_output(case, mask):
    values, shown = case.values(), case.values()[mask]
    noise = 10 * np.random.default_rng(5).normal(size=values[case.hides[mask]].shape)
    for by in (noise, np.nan, np.inf):
        outputs = call(case, hidden_replaced(case, mask, values, by))
        assert_same(visible(outputs, shown), visible(call(case, values), shown), rtol=1e-4)


# These mask a position only as a key: as a query it is computed like any other.
KEYS_ALONE = (
    layers.MultiHeadSelfAttention,
    layers.TransformerEncoderBlock,
    layers.TransformerDecoderBlock,
)
CLEARED = [(c, mask) for c, mask in HIDING if mask != "mask" or c.layer not in KEYS_ALONE]


@pytest.mark.parametrize(("case", "mask"), few_but_on_torch(CLEARED))
def test_values_at_masked_positions_do_not_change_gradients(case, mask):
    values = case.values()
    shown = keras.ops.convert_to_tensor(values[mask])

    class Visible(keras.layers.Layer):
        """The outputs, zeroed at masked positions."""

        def __init__(self):
            super().__init__()
            self.layer, self.supports_masking = built(case), True

        def call(self, **inputs):
            return [self.visible(output) for output in tree.flatten(self.layer(**inputs))]

        def visible(self, output):
            axes = shown.ndim
            if output.shape[:axes] != shown.shape:
                return output
            mask = keras.ops.reshape(shown, (*shown.shape, *[1] * (output.ndim - axes)))
            return keras.ops.where(mask, output, 0.0)

    visible = Visible()
    expected = layer_gradients(visible, values)
    for by in (np.nan, np.inf):
        found = layer_gradients(visible, hidden_replaced(case, mask, values, by))
        for name, gradient in expected.items():
            if gradient is None:  # an argmax has no gradient to its logits
                assert found[name] is None
                continue
            np.testing.assert_allclose(found[name], gradient, 1e-4, 1e-5, err_msg=name)


@pytest.mark.parametrize(("case", "mask"), few_but_on_torch(HIDING))
def test_extra_padding_does_not_change_the_output(case, mask):
    size = case.inputs[mask].shape[1]

    def longer(value):
        # Every axis of that length, which is a prime that no other axis has.
        widths = [(0, EXTRA if have == size else 0) for have in value.shape]
        return np.pad(value, widths, constant_values=value.dtype.type(value.dtype != "bool"))

    values = case.values()
    padded = call(case, tree.map_structure(longer, values))
    cut = [
        output[tuple(slice(size) if n == size + EXTRA else slice(None) for n in output.shape)]
        for output in tree.flatten(padded)
    ]
    assert_same(visible(cut, values[mask]), visible(call(case, values), values[mask]))


@pytest.mark.parametrize("case", [case for case in CALLED if case.causal], ids=str)
def test_later_positions_do_not_change_earlier_outputs(case):
    before, after = case.values(), case.values()
    first, cut = next(iter(before)), 2
    after[first][:, cut:] += 3.0
    assert_same(call(case, after)[:, :cut], call(case, before)[:, :cut])
    assert not np.allclose(call(case, after), call(case, before))


def _masks(case):
    words = ("mask", "sequence_ids")
    return [name for name in case.inputs if name.endswith(words)]


MASKS = [(case, mask) for case in CALLED for mask in _masks(case)]


@pytest.mark.parametrize(("case", "mask"), few_but_on_torch(MASKS))
def test_every_mask_changes_the_output(case, mask):
    others = {k: v for k, v in case.values().items() if k not in _masks(case)}
    with_mask, without = call(case, {**others, mask: case.values()[mask]}), call(case, others)
    pairs = zip(tree.flatten(with_mask), tree.flatten(without), strict=True)
    assert any(not np.allclose(one, other, atol=1e-4) for one, other in pairs)


@pytest.mark.parametrize(("case", "mask"), few_but_on_torch(MASKS))
def test_a_mask_may_be_a_list(case, mask):
    values = case.values()
    lists = tree.map_structure(lambda part: part.tolist(), values[mask])
    assert_same(call(case, {**values, mask: lists}), call(case, values))


@pytest.mark.parametrize(
    ("case", "mask"), few_but_on_torch([(case, m) for case, m in MASKS if m != "sequence_ids"])
)
def test_an_additive_mask_raises(case, mask):
    values = case.values()
    additive = tree.map_structure(
        lambda part: np.where(part, 0.0, -1e9).astype("float32"), values[mask]
    )
    with pytest.raises(ValueError, match=r"must be true where nothing is hidden, got -1e\+09"):
        built(case)(**{**values, mask: additive})


KERAS_MASKS = [(case, m) for case, m in HIDING if case.hides[m] == next(iter(case.inputs))]


@pytest.mark.parametrize(("case", "mask"), few_but_on_torch(KERAS_MASKS))
def test_a_keras_mask_acts_like_the_explicit_mask(case, mask):
    values = case.values()
    explicit = call(case, values)
    travelling = tensors({k: v for k, v in values.items() if k != mask})

    def masked(inputs, shown):
        keras.src.backend.set_keras_mask(inputs[case.hides[mask]], shown)
        return built(case)(**inputs)

    shown = keras.ops.convert_to_tensor(values[mask])
    assert_same(arrays(whole(masked)(travelling, shown)), explicit)


BATCHED = [c for c in CALLED if all(s.shape[:1] == (B,) for s in tree.flatten(c.inputs))]


@pytest.mark.parametrize("case", few_but_on_torch(BATCHED))
def test_batch_rows_are_independent(case):
    values = case.values()
    swapped = tree.map_structure(lambda value: value[::-1].copy(), values)
    back = tree.map_structure(lambda output: output[::-1], call(case, swapped))
    assert_same(back, call(case, values))
