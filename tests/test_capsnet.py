"""The training step of CapsNet, its decoder, and what it shares with any Keras model."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.losses import MarginLoss
from kcaps.models import CapsNet, capsnet, efficient_capsnet
from kcaps.models.architectures import decoder
from kcaps.routing import DiscriminativeRouting


def graph(routing="l2", hidden=None):
    """A small network on 6 × 6 images: input and output tensors."""
    image = keras.Input((6, 6, 1), name="image")
    x = PrimaryCaps(4, 4, kernel_size=3, name="primary_caps")(image)
    if hidden is not None:
        x = DigitCaps(6, 4, routing=hidden, name="hidden_caps")(x)
    poses = DigitCaps(3, 4, routing=routing, name="digit_caps")(x)
    return image, CapsuleLength(name="class_lengths")(poses)


@pytest.fixture
def batch(rng):
    return rng.uniform(size=(8, 6, 6, 1)).astype("float32"), rng.integers(3, size=8)


def values(variables):
    return [ops.convert_to_numpy(v).copy() for v in variables]


def routing_gradient(model, x, y, weight=0.001):
    """Gradient of the l2 objective by equation (13), in float64 NumPy, at the current weights."""
    layer = model.get_layer("digit_caps")
    capsules = keras.Model(model.inputs, layer.input).predict(x, verbose=0).astype("float64")
    kernel, b = values([layer.kernel, layer.routing.coefficients])
    votes = np.einsum("nik,ikjd->nijd", capsules, kernel)
    sums = np.einsum("ij,nijd->njd", b, votes)
    delta = np.where(y[:, None] == np.arange(3), 1, -1)
    return 2 * np.einsum("nj,nijd,njd->ij", delta, votes, sums) - 2 * weight * b


def test_alternating_step_moves_weights_then_coefficients(batch, gradient):
    x, y = batch
    model = CapsNet(*graph())
    model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=1e-3)
    b = values(model.routing_variables)[0]

    reference = CapsNet(*graph())
    reference.set_weights(model.get_weights())
    weights = [v for v in reference.trainable_variables if v.name != "coefficients"]
    loss = float(ops.convert_to_numpy(MarginLoss()(y, reference(x))))

    def margin_loss(*arrays):
        with keras.StatelessScope(list(zip(weights, arrays, strict=True))):
            return MarginLoss()(y, reference(x, training=True))

    for variable, slope in zip(weights, gradient(margin_loss, *values(weights)), strict=True):
        variable.assign_sub(0.1 * slope)
    expected_b = b + 1e-3 * routing_gradient(reference, x, y)  # with the new weights

    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(loss, rel=1e-5)
    others = [v for v in model.trainable_variables if v.name != "coefficients"]
    for new, expected in zip(values(others), values(weights), strict=True):
        np.testing.assert_allclose(new, expected, atol=1e-6)
    np.testing.assert_allclose(values(model.routing_variables)[0], expected_b, atol=1e-6)
    assert np.abs(expected_b - b).max() > 1e-4


def test_each_half_of_the_alternating_step_holds_the_other_fixed(batch):
    model = CapsNet(*graph())
    model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=0.0)
    others = [v for v in model.trainable_variables if v.name != "coefficients"]
    before, b = values(others), values(model.routing_variables)
    model.train_on_batch(*batch)
    np.testing.assert_array_equal(values(model.routing_variables)[0], b[0])
    assert all(np.any(old != new) for old, new in zip(before, values(others), strict=True))

    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=1e-3)
    before = values(others)
    model.train_on_batch(*batch)
    assert np.any(values(model.routing_variables)[0] != b[0])
    for old, new in zip(before, values(others), strict=True):
        np.testing.assert_array_equal(old, new)


def test_joint_step_takes_both_gradients_at_the_old_weights(batch):
    x, y = batch
    model = CapsNet(*graph())
    expected_b = values(model.routing_variables)[0] + 1e-3 * routing_gradient(model, x, y)
    alternating = CapsNet(*graph())
    alternating.set_weights(model.get_weights())
    for one, update in ((model, "joint"), (alternating, "alternating")):
        one.compile(keras.optimizers.SGD(0.1), routing_learning_rate=1e-3, update=update)
        one.train_on_batch(x, y)
    np.testing.assert_allclose(values(model.routing_variables)[0], expected_b, atol=1e-6)
    kernels = [one.get_layer("digit_caps").kernel for one in (model, alternating)]
    np.testing.assert_allclose(*values(kernels), atol=1e-7)
    assert np.any(values(model.routing_variables)[0] != values(alternating.routing_variables)[0])


def test_several_steps_equal_several_batches(batch):
    """Three weight steps, then two routing steps, against single steps taken one at a time."""
    model, reference = CapsNet(*graph()), CapsNet(*graph())
    reference.set_weights(model.get_weights())
    model.compile(
        keras.optimizers.SGD(0.1), routing_learning_rate=1e-3, weight_steps=3, routing_steps=2
    )
    model.train_on_batch(*batch)
    reference.compile(keras.optimizers.SGD(0.1), routing_learning_rate=0.0)
    for _ in range(3):
        reference.train_on_batch(*batch)
    reference.compile(keras.optimizers.SGD(0.0), routing_learning_rate=1e-3)
    for _ in range(2):
        reference.train_on_batch(*batch)
    for a, b in zip(values(model.variables), values(reference.variables), strict=False):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.compiled
@pytest.mark.parametrize("update", ["alternating", "joint"])
@pytest.mark.parametrize("routing", ["l1", "l2"])
def test_two_capsule_layers_train(batch, routing, update):
    model = CapsNet(*graph(routing, hidden=routing))
    model.compile(keras.optimizers.Adam(0.01), routing_learning_rate=1e-4, update=update)
    before = values(model.routing_variables)
    assert len(before) == 2
    history = model.fit(*batch, epochs=30, batch_size=4, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    assert all(np.any(a != b) for a, b in zip(before, values(model.routing_variables), strict=True))


def test_earlier_coefficients_follow_by_the_chain_rule(batch):
    """Against central differences of the class capsules' objective less the hidden penalty."""
    x, y = batch
    model = CapsNet(*graph(hidden="l2"))
    hidden, last = model.get_layer("hidden_caps"), model.get_layer("digit_caps")
    b = values([hidden.routing.coefficients])[0]

    def objective(coefficients):
        hidden.routing.coefficients.assign(coefficients)
        capsules = keras.Model(model.input, last.input)(x, training=False)
        gain = last.routing.objective(capsules, ops.convert_to_tensor(last.kernel), y)
        return float(ops.convert_to_numpy(gain - hidden.routing.penalty_term()))

    index, step = (2, 3), 1e-2
    shift = np.zeros_like(b)
    shift[index] = step
    slope = (objective(b + shift) - objective(b - shift)) / (2 * step)
    hidden.routing.coefficients.assign(b)
    model.compile(keras.optimizers.SGD(0.0), routing_learning_rate=1.0)
    model.train_on_batch(x, y)
    moved = values([hidden.routing.coefficients])[0] - b
    assert moved[index] == pytest.approx(slope, rel=1e-2)  # float32 differences


def test_without_routing_variables_the_step_is_keras_own(batch):
    weights, results = None, []
    for kind in (CapsNet, keras.Model):
        keras.utils.set_random_seed(1)
        model = kind(*graph("dynamic"))
        weights = weights or model.get_weights()
        model.set_weights(weights)
        model.compile("adam", loss=MarginLoss(), metrics=["accuracy"])
        history = model.fit(*batch, epochs=3, batch_size=3, verbose=0).history
        results.append((history, model.get_weights()))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow
@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_whole_step_in_xla_equals_the_plain_step(batch, update):
    results = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(1)
        model = with_decoder("l2")
        model.compile("sgd", update=update, jit_compile=jit_compile)
        model.fit(*batch, epochs=2, batch_size=4, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("update", ["alternating", "joint"])
def test_mixed_float16_scales_its_losses(batch, update):
    """Without `scale_loss`, the optimizer would divide updates by 32,768."""
    x, y = batch
    moves = []
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(1)
        keras.config.set_dtype_policy(policy)
        model = CapsNet(*graph())
        model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=1e-3, update=update)
        before = values(model.trainable_variables)
        model.train_on_batch(x, y)
        after = values(model.trainable_variables)
        moves.append([new - old for old, new in zip(before, after, strict=True)])
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    for exact, half in zip(*moves, strict=True):
        # half precision has 11 bits of mantissa
        np.testing.assert_allclose(half, exact, atol=0.02 * np.abs(exact).max())


def test_sample_weight_counts_in_both_objectives(batch):
    x, y = batch
    weights = np.array([1, 1, 1, 1, 0, 0, 0, 0], "float32")
    start = CapsNet(*graph()).get_weights()
    results = []
    for images, labels, sample_weight in [
        (x, y, weights),
        (np.concatenate([x[:4], 1 - x[4:]]), y, weights),  # zero weight: contents do not matter
        (x, y, None),
    ]:
        model = with_decoder("l2")
        model.set_weights(start + model.get_weights()[len(start) :])
        keras.utils.set_random_seed(2)
        for variable in model.decoder.weights:
            variable.assign(np.full(variable.shape, 0.01))
        model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=1e-3)
        model.train_on_batch(images, labels, sample_weight=sample_weight)
        results.append(model.get_weights())
    for same, other in zip(results[0], results[1], strict=True):
        np.testing.assert_allclose(same, other, atol=1e-6)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(results[0], results[2], strict=True))


def with_decoder(routing, weight=0.01):
    return CapsNet(
        *graph(routing), decoder=decoder(3, 4, (6, 6, 1), (8,)), reconstruction_weight=weight
    )


@pytest.mark.parametrize("training", [True, False])
def test_reconstruction_masks_by_label_in_training_and_by_length_otherwise(batch, training):
    x, y = batch
    model = with_decoder("dynamic")
    model.compile(keras.optimizers.SGD(0.0))
    poses = keras.Model(model.inputs, model.get_layer("digit_caps").output).predict(x, verbose=0)
    lengths = np.linalg.norm(poses, axis=-1)
    kept = y if training else lengths.argmax(-1)
    assert np.any(y != lengths.argmax(-1))
    masked = poses * np.eye(3)[kept][..., None]
    decoded = model.decoder.predict(masked, verbose=0)
    expected = float(MarginLoss()(y, lengths)) + 0.01 * np.sum((x - decoded) ** 2) / 8
    step = model.train_on_batch if training else model.test_on_batch
    assert step(x, y, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_forms_in_which_keras_takes_one_input_are_equal(batch):
    x, y = batch
    model, losses = with_decoder("l2"), []
    # Elsewhere Keras itself warns of structures for a single input.
    nested = [[x], {"image": x}] if keras.backend.backend() == "tensorflow" else []
    for form in (x, *nested, x[..., 0]):
        model.compile("sgd")  # anew: TensorFlow forgets the rank where one function sees two
        losses.append(model.test_on_batch(form, y, return_dict=True)["loss"])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def test_a_decoders_own_losses_count(batch):
    model = with_decoder("dynamic")
    model.compile(keras.optimizers.SGD(0.0))
    before = model.train_on_batch(*batch, return_dict=True)["loss"]
    dense = next(x for x in model.decoder.layers if isinstance(x, keras.layers.Dense))
    dense.activity_regularizer = keras.regularizers.L2(10.0)
    model.compile(keras.optimizers.SGD(0.0))
    assert model.train_on_batch(*batch, return_dict=True)["loss"] > before


@pytest.mark.tensorflow
def test_two_replicas_equal_one(batch, two_devices):
    """The gradient of each objective counts once, however many replicas share the batch."""
    import tensorflow as tf

    x, y = batch
    start, moved = None, []
    for strategy in (tf.distribute.OneDeviceStrategy("CPU:0"), two_devices):
        with strategy.scope():
            model = CapsNet(*graph(DiscriminativeRouting("l2", 1.0, reduction="mean")))
            start = start or model.get_weights()
            model.set_weights(start)
            model.compile(keras.optimizers.SGD(0.1), routing_learning_rate=0.1)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        model.fit(data, shuffle=False, verbose=0)
        moved.append(model.get_weights())
    for a, b in zip(*moved, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_capsnet_has_the_published_numbers_of_parameters():
    model = capsnet((28, 28, 1), 10)
    assert model.decoder.count_params() == 1_411_344
    assert model.count_params() == 6_804_224 + 1_411_344
    assert capsnet((28, 28, 1), 10, decoder_units=None).count_params() == 6_804_224
    assert capsnet((28, 28, 1), 10, "l1", decoder_units=None).count_params() == 6_804_224 + 11_520


def test_efficient_capsnet_has_the_published_number_of_parameters():
    model = efficient_capsnet((28, 28, 1), 10)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 161_824
    assert model.get_layer("primary_caps").kernel.shape == (9, 9, 128, 1)
    assert model.output_shape == (None, 10)


def test_efficient_capsnet_squashes_in_its_own_way(rng):
    model = efficient_capsnet((14, 15, 2), 3, decoder_units=(8,))
    features = keras.Model(model.input, model.get_layer("primary_caps").output)
    capsules = keras.Model(model.input, model.class_layer.input)
    x = rng.uniform(0, 255, size=(2, 14, 15, 2)).astype("float32")
    s = features.predict(x, verbose=0).reshape(2, 16, 8).astype("float64")
    length = np.linalg.norm(s, axis=-1, keepdims=True)
    expected = (1 - np.exp(-length)) * s / length
    np.testing.assert_allclose(capsules.predict(x, verbose=0), expected, atol=1e-6)
    assert model.decoder.output_shape == (None, 14, 15, 2)


def test_efficient_capsnet_trains_saves_and_loads(rng, tmp_path):
    x, y = rng.uniform(0, 255, size=(12, 13, 13, 1)).astype("float32"), np.arange(12) % 3
    model = efficient_capsnet((13, 13, 1), 3, num_primary_capsules=4, decoder_units=(8,))
    model.compile(keras.optimizers.Adam(0.003))
    losses = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def small_capsnet(**options):
    return capsnet((17, 18, 1), 3, filters=4, num_primary_capsules=2, **options)


def test_saving_and_loading_keeps_everything(tmp_path, rng):
    x, y = rng.uniform(0, 255, size=(6, 17, 18, 1)).astype("float32"), np.arange(6) % 3
    model = small_capsnet(routing=DiscriminativeRouting("l1", 0.1), decoder_units=(5,))
    model.compile(
        "adam",
        loss=MarginLoss(absent_weight=0.3),
        metrics=["accuracy"],
        routing_optimizer=keras.optimizers.Adam(0.01),
        update="alternating",
        weight_steps=2,
        routing_steps=3,
    )
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert isinstance(loaded, CapsNet)
    assert loaded.to_json() == model.to_json()
    assert loaded.reconstruction_weight == model.reconstruction_weight
    assert (loaded.weight_steps, loaded.routing_steps) == (2, 3)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    for one in (model, loaded):  # optimizer states too: the next steps are the same
        one.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_uncompiled_model_saves_and_loads(tmp_path, rng):
    model = small_capsnet(decoder_units=None)
    model.save(tmp_path / "model.keras")
    x = rng.uniform(0, 255, size=(2, 17, 18, 1))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_one_hot_labels_metrics_and_validation(batch):
    x, y = batch
    model = with_decoder("l2")
    model.compile("adam", metrics=["accuracy"])
    history = model.fit(x, np.eye(3)[y], validation_data=(x, np.eye(3)[y]), verbose=0).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_frozen_coefficients_stay(batch):
    model = CapsNet(*graph())
    model.get_layer("digit_caps").routing.trainable = False
    model.compile("sgd", routing_learning_rate=1.0)
    before = values(model.get_layer("digit_caps").routing.weights)
    model.train_on_batch(*batch)
    after = values(model.get_layer("digit_caps").routing.weights)
    np.testing.assert_array_equal(before[0], after[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "both"}, "`update` must be one of 'alternating', 'joint'"),
        ({"weight_steps": 0}, "`weight_steps` must be a positive integer"),
        ({"routing_steps": 1.5}, "`routing_steps` must be a positive integer"),
        ({"update": "joint", "routing_steps": 2}, "Use update='alternating' for more"),
        ({"routing_optimizer": "sgd", "routing_learning_rate": 0.1}, "not both"),
        ({"routing_learning_rate": -1}, "`routing_learning_rate` must be a finite number >= 0"),
    ],
)
def test_compile_errors(options, message):
    with pytest.raises(ValueError) as error:
        CapsNet(*graph()).compile("sgd", **options)
    assert message in str(error.value)


def test_one_optimizer_cannot_serve_both():
    optimizer = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="must be another optimizer than `optimizer`"):
        CapsNet(*graph()).compile(optimizer, routing_optimizer=optimizer)


def test_construction_errors():
    with pytest.raises(ValueError, match="The last DigitCaps must use a routing with an objective"):
        CapsNet(*graph("dynamic", hidden="l2")).compile("sgd")
    image = keras.Input((4, 4, 1))
    lengths = keras.layers.Flatten()(image)
    with pytest.raises(ValueError, match="`decoder` needs class capsules"):
        CapsNet(image, lengths, decoder=decoder(3, 4, (4, 4, 1)))
    with pytest.raises(ValueError, match="`reconstruction_weight` must be a finite number >= 0"):
        CapsNet(*graph(), reconstruction_weight=-1)
    with pytest.raises(ValueError, match="at least 17 × 17 pixels"):
        capsnet((16, 28, 1), 10)
    with pytest.raises(ValueError, match="at least 17 × 17 pixels"):
        capsnet((None, None, 1), 10)
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer"):
        capsnet((28, 28, 1), 0)
    with pytest.raises(ValueError, match="at least 13 × 13 pixels"):
        efficient_capsnet((12, 13, 1), 10)
    with pytest.raises(ValueError, match="`num_primary_capsules` must be a positive integer"):
        efficient_capsnet((13, 13, 1), 10, num_primary_capsules=0)
