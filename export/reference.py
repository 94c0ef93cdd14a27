"""The model that an exported file must compute."""

import dataclasses

import keras

from export.half import half_dtypes
from export.half import in_float32 as copy_in_float32
from export.inference import check_backend, inference_model
from export.outputs import class_output


@dataclasses.dataclass(frozen=True)
class Reference:
    """The Keras model that a file must compute and, if that is a copy, what it was copied from.

    Args:
        model: Model of one input `image` and a dict of named outputs.
        original: The same outputs by the user's layers, which compute in half precision, if
            `model` is a copy of them in float32. Defaults to None: `model` has these layers itself.
    """

    model: keras.Model
    original: keras.Model | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of values in the output of classes, or None where there is no such output."""
        name = class_output(self.model.output)
        return None if name is None else self.model.output[name].shape[1]

    @classmethod
    def of(
        cls, model: keras.Model, with_decoder: bool = False, in_float32: bool = True
    ) -> "Reference":
        """Returns the reference for the export of a model, as `inference_model` makes it.

        Args:
            model, with_decoder: As for `export.inference.inference_model`.
            in_float32: Whether layers in half precision are copied to float32.

        Raises:
            ValueError: as `inference_model` and `export.half.in_float32` do, and where Keras runs
                on another backend than TensorFlow.
        """
        check_backend()
        own = inference_model(model, with_decoder)
        if not in_float32 or not half_dtypes(own):
            return cls(own)
        return cls(copy_in_float32(own), own)
