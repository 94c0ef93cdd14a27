"""Decoders without variables yet, exports by Keras, and files that would lose a part."""

import keras
import numpy as np
import pytest
from keras import ops

from kcaps.layers import CapsuleLength, DigitCaps, PrimaryCaps
from kcaps.models import CapsNet
from kcaps.models.architectures import decoder

ROUTINGS = ["dynamic", "l1", "l2", "em"]


@keras.saving.register_keras_serializable(package="kcaps_tests")
class OwnDecoder(keras.Model):
    """A decoder whose layers have no variables before its first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(36, activation="sigmoid")
        self.norm = keras.layers.BatchNormalization()

    def call(self, poses, training=None):
        flat = ops.reshape(poses, (-1, 12))
        return ops.reshape(self.norm(self.dense(flat), training=training), (-1, 6, 6, 1))


def sequential():
    layers = keras.layers
    return keras.Sequential([layers.Flatten(), layers.Dense(36), layers.Reshape((6, 6, 1))])


DECODERS = {
    "sequential": sequential,
    "subclass": OwnDecoder,
    "functional": lambda: decoder(3, 4, (6, 6, 1), (8,)),
}


@pytest.fixture
def batch(rng):
    return rng.uniform(size=(8, 6, 6, 1)).astype("float32"), np.arange(8) % 3


def network(routing="dynamic", rebuilt=None):
    image = keras.Input((6, 6, 1), name="image")
    poses = DigitCaps(3, 4, routing=routing)(PrimaryCaps(4, 4, kernel_size=3)(image))
    return CapsNet(image, CapsuleLength()(poses), decoder=rebuilt, reconstruction_weight=0.1)


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_have_their_variables_from_the_start(kind):
    model = network(rebuilt=DECODERS[kind]())
    assert model.decoder.built
    assert all(
        any(v is w for w in model.trainable_variables) for v in model.decoder.trainable_variables
    )
    assert len(model.decoder.trainable_variables) >= 2


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("kind", "routing"),
    [
        *(("sequential", routing) for routing in ROUTINGS),
        ("subclass", "l2"),
        ("subclass", "dynamic"),
    ],
)
def test_decoders_without_variables_yet_train_save_and_load(batch, tmp_path, kind, routing):
    model = network(routing, DECODERS[kind]())
    model.compile("adam")
    losses = model.fit(*batch, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.evaluate(*batch, verbose=0) == pytest.approx(model.evaluate(*batch, verbose=0))


@pytest.mark.parametrize(
    ("rebuilt", "message"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(36)]), "must make images of the shape of"),
        (lambda: decoder(3, 4, (5, 6, 1)), "must make images of the shape of an input"),
        (lambda: decoder(4, 4, (6, 6, 1)), "must take poses of shape \\(None, 3, 4\\)"),
        (lambda: lambda poses: poses, "`decoder` must be a Keras model"),
    ],
)
def test_decoders_that_cannot_decode_are_refused(rebuilt, message):
    with pytest.raises(ValueError, match=message):
        network(rebuilt=rebuilt())


def test_a_decoder_is_given_once():
    model = network(rebuilt=sequential())
    with pytest.raises(AttributeError, match="keeps the decoder that it was made with"):
        model.decoder = sequential()


def test_class_capsules_inside_of_another_model_are_told_of():
    inner = keras.Input((6, 6, 1))
    poses = DigitCaps(3, 4, name="inner_caps")(PrimaryCaps(4, 4, kernel_size=3)(inner))
    base, image = keras.Model(inner, poses), keras.Input((6, 6, 1))
    with pytest.raises(ValueError, match=r"inside of other models, \['inner_caps'\]"):
        CapsNet(image, CapsuleLength()(base(image)), decoder=sequential())
    CapsNet(base.input, CapsuleLength()(base.output), decoder=sequential())


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # Keras' own patch
@pytest.mark.parametrize("kind", ["plain", "decoder", "l2"])
def test_keras_own_export_after_training(batch, tmp_path, kind):
    """To ONNX and SavedModel, as from any model that was trained."""
    import onnxruntime

    rebuilt = decoder(3, 4, (6, 6, 1), (8,)) if kind == "decoder" else None
    model = network("l2" if kind == "l2" else "dynamic", rebuilt)
    model.compile("sgd")
    model.fit(*batch, verbose=0)
    path = str(tmp_path / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (lengths,) = session.run(None, {"image": batch[0]})
    np.testing.assert_allclose(lengths, model.predict(batch[0], verbose=0), atol=1e-5)
    model.export(str(tmp_path / "saved_model"), verbose=False)
    served = keras.layers.TFSMLayer(tmp_path / "saved_model", call_endpoint="serve")
    np.testing.assert_allclose(ops.convert_to_numpy(served(batch[0])), lengths, atol=1e-5)


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_the_old_format_is_refused(batch, tmp_path, name):
    model = network("l2", decoder(3, 4, (6, 6, 1), (8,)))
    model.compile("adam", routing_learning_rate=0.1)
    path = tmp_path / name
    for target in (path, str(path)):
        with pytest.raises(ValueError, match=r"ends in `.keras`, or in `.weights.h5`"):
            model.save(target)
        with pytest.raises(ValueError, match=r"ends in `.keras`, or in `.weights.h5`"):
            model.load_weights(target)
    assert not path.exists()
    with pytest.raises(ValueError, match=r"old HDF5 format loses parts of this model"):
        keras.saving.save_model(model, path)


def test_callbacks_do_not_save_in_the_old_format(batch, tmp_path):
    model = network("l2")
    model.compile("adam")
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "model.h5"))
    with pytest.raises(ValueError, match=r"ends in `.keras`, or in `.weights.h5`"):
        model.fit(*batch, callbacks=[checkpoint], verbose=0)


def test_weights_alone_keep_the_decoder(batch, tmp_path):
    models = [network("l2", decoder(3, 4, (6, 6, 1), (8,))) for _ in range(2)]
    models[0].save_weights(tmp_path / "model.weights.h5")
    models[1].load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(models[1].decoder.weights) == 4
