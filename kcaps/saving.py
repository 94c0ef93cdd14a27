"""Refuses Keras' old HDF5 format for models of which it would lose a part."""

import os

from kcaps.backend.keras_private import is_writing_legacy_format

_LEGACY = (".h5", ".hdf5")
_WEIGHTS = ".weights.h5"
_LOST = "Keras' old HDF5 format loses parts of this model, such as a decoder and the routing rate."


class KerasFormatOnly:
    """Mixin of models that are neither saved in Keras' old HDF5 format nor loaded from it."""

    def save(self, filepath: str | os.PathLike, *args, **kwargs) -> None:
        """Saves the model as a `.keras` file; arguments as those of `keras.Model.save`.

        Raises:
            ValueError: for a path of Keras' old HDF5 format, which loses parts of the model.
        """
        refuse_legacy_format(filepath)
        super().save(filepath, *args, **kwargs)

    def load_weights(self, filepath: str | os.PathLike, *args, **kwargs) -> None:
        """Loads weights, from a `.weights.h5` or `.keras` file, as `keras.Model.load_weights` does.

        Raises:
            ValueError: for a path of Keras' old HDF5 format, which lacks parts of the model.
        """
        refuse_legacy_format(filepath)
        super().load_weights(filepath, *args, **kwargs)

    def get_config(self) -> dict:
        refuse_legacy_config()
        return super().get_config()

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        refuse_legacy_config()
        return super().from_config(config, custom_objects)


def refuse_legacy_format(path: str | os.PathLike) -> None:
    """Raises a `ValueError` for a path of Keras' old HDF5 format; `*.weights.h5` passes.

    That format has the weights of `model.layers` alone, and of the compiled options only the
    optimizer and the loss: a decoder, a routing rate or the options of EM would be lost.
    """
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    if name.endswith(_LEGACY) and not name.endswith(_WEIGHTS):
        raise ValueError(
            f"{_LOST} Use a path that ends in `.keras`, or in `.weights.h5` for the weights "
            f"alone. Received: {name!r}."
        )


def refuse_legacy_config() -> None:
    """Raises a `ValueError` while Keras writes or reads its old HDF5 format.

    `keras.saving.save_model` and `load_model` do not call the model's `save` and `load`, but make
    or read its config within a scope of that format.
    """
    if is_writing_legacy_format():
        raise ValueError(
            f"{_LOST} Use `model.save` with a path that ends in `.keras`. Received: a file of "
            "Keras' old HDF5 format."
        )
