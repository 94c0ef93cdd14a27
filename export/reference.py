"""The model that an exported file must compute."""

import dataclasses

import keras

from export.half import half_dtypes
from export.half import in_float32 as copy_in_float32
from export.inference import inference_model


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

    @classmethod
    def of(
        cls, model: keras.Model, with_decoder: bool = False, in_float32: bool = True
    ) -> "Reference":
        """Returns the reference for the export of a model, as `inference_model` makes it.

        Args:
            model, with_decoder: As for `export.inference.inference_model`.
            in_float32: Whether layers in half precision are copied to float32.

        Raises:
            ValueError: as `inference_model` and `export.half.in_float32` do.
        """
        own = inference_model(model, with_decoder)
        if not in_float32 or not half_dtypes(own):
            return cls(own)
        return cls(copy_in_float32(own), own)
