"""Decoders that a model is given."""

import keras

from kcaps.graph import in_order
from kcaps.validation import agree


def prepare(decoder, model) -> keras.KerasTensor:
    """Builds a decoder for the class capsules of a model, and finds the input that it rebuilds.

    Args:
        decoder: Layer or model from masked poses to images. One without variables yet, such as a
            `keras.Sequential` without an input, gets them.
        model: The `CapsNet` that it is for.

    Returns:
        The first input of the model that has the shape of the decoder's images.

    Raises:
        ValueError: for an object that is no layer, a model whose class capsules are missing or not
            clear, or a decoder that does not make images of the shape of an input.
    """
    if not isinstance(decoder, keras.layers.Layer):
        raise ValueError(f"`decoder` must be a Keras model. Received: decoder={decoder!r}.")
    graph = model._class_graph
    if graph is None:
        inside = [layer.name for layer in model._digit_caps()]
        received = f"those inside of other models, {inside}" if inside else "a graph without them"
        raise ValueError(
            "`decoder` needs class capsules to decode, which a DigitCaps of the model's own graph "
            "makes: a model's `input` and `output` continue its graph, a call does not. "
            f"Received: {received}."
        )
    graph.check_unique("`decoder`")
    poses = graph.call.outputs[0]
    try:
        image = decoder(keras.KerasTensor(poses.shape, dtype=poses.dtype))
    except Exception as error:  # whatever its layers raise for inputs that do not fit
        raise ValueError(
            f"`decoder` must take poses of shape {tuple(poses.shape)}. Received: "
            f"{decoder.name!r}, which cannot: {error}"
        ) from error
    shape = getattr(image, "shape", ())
    for tensor in in_order(model.input):
        if agree(shape[1:], tensor.shape[1:]):
            return tensor
    raise ValueError(
        "`decoder` must make images of the shape of an input, "
        f"{' or '.join(str(tuple(tensor.shape)) for tensor in model.inputs)}. "
        f"Received: {decoder.name!r}, which makes {tuple(shape)}."
    )
