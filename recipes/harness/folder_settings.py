"""Settings of a program that trains a network on a user's own pictures."""

import dataclasses
import os
import pathlib
import typing

import keras
import numpy as np

from export.command import Parser, fail, positive
from export.pictures import FITS
from harness.network_settings import NetworkSettings, given, part, values_of
from harness.run_folder import Run
from harness.settings import option
from networks import backbones, presets
from pictures_of import class_weights, data, folder_images

_STEPS = 1500  # of a training by default: enough for some hundred images, and more on many
_EPOCHS = (10, 200)  # by default, at least and at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSettings(NetworkSettings):
    """Settings of a program that trains on a folder of pictures.

    Those that depend on the pictures are None until `fitted` has seen these.
    """

    folder: pathlib.Path = option(
        None,
        "with a folder of PNG or JPEG files for each class, or with train, test and val of these",
        place="beginning",
        may_change=True,
        positional=True,
        type=pathlib.Path,
        metavar="FOLDER",
    )
    image_size: list | None = option(
        None,
        "height and width that pictures get, or one number for both (default: that of the median "
        "picture, 64 at most, and 96 × 96 with --backbone)",
        place="images",
        nargs="+",
        type=positive(int),
        metavar="N",
    )
    fit: str = option(
        "stretch",
        "how pictures of other proportions fit: crop cuts off the ends, pad adds black bars",
        place="images",
        choices=FITS,
    )
    channels: int | None = option(
        None,
        "1 makes all pictures grey, 3 gives all of them colours (default: as they are)",
        place="images",
        type=int,
        choices=(1, 3),
    )
    validation_share: float = option(
        0.15, "of the pictures for validation", place="images", type=part, metavar="SHARE"
    )
    test_share: float = option(
        0.15, "of the pictures for the test", place="images", type=part, metavar="SHARE"
    )
    class_weights: str | None = option(
        None,
        "of the classes in the loss; balanced: all classes count alike (default: balanced where "
        "classes have unequal numbers of pictures)",
        choices=class_weights.NAMES,
    )
    backbone: str | None = option(
        None,
        "a network of keras.applications below the capsules, such as MobileNetV3Small",
        place="beginning",
        choices=backbones.names(),
        metavar="NAME",
    )
    backbone_weights: str | None = option(
        None,
        "file of its weights without the top layers, or imagenet, which Keras downloads (default: "
        "it begins at random)",
        place="beginning",
        metavar="FILE",
    )
    freeze_backbone: bool = option(
        False, "its weights stay as they are: capsules alone are trained", place="beginning"
    )
    epochs: int | None = option(
        None,
        "passes over the training images (default: as many as make 1,500 steps, but 10 at least "
        "and 200 at most)",
        place="beginning",
        may_change=True,
        type=positive(int),
    )
    max_shift: int | None = option(
        None,
        "pixels, of --augment shift (default: a sixteenth of a side)",
        type=positive(int),
    )
    cutout_size: int | None = option(
        None,
        "pixels of a side, of --augment cutout (default: a quarter of a side)",
        type=positive(int),
    )
    asked: dict | None = None  # arguments of the command line, once `fitted` has replaced some

    _BY_PICTURES: typing.ClassVar[dict] = {"epochs": None, "max_shift": None, "cutout_size": None}

    @classmethod
    def defaults_for(cls, words: list[str], data_set: str) -> dict:
        values = super().defaults_for(words, data_set)
        if given(words, "--backbone"):
            values |= {"network": "backbone", **values_of(presets.BACKBONE, words)}
        return values | cls._BY_PICTURES

    @classmethod
    def add_rules(cls, parser: Parser) -> None:
        super().add_rules(parser)
        parser.refuse(["--data-dir", "--synthetic"], None, "pictures come from FOLDER")
        parser.refuse(["--network"], lambda args: args.backbone, "--backbone is the network")
        parser.refuse(
            ["--backbone-weights"], lambda args: not args.backbone, "there is no --backbone"
        )
        parser.refuse(
            ["--freeze-backbone"],
            lambda args: not args.backbone_weights,
            "without --backbone-weights nothing is to be kept",
        )

    def __post_init__(self):
        super().__post_init__()
        if self.image_size and len(self.image_size) > 2:
            received = " ".join(map(str, self.image_size))
            fail(f"--image-size must be height and width, or one number. Received: {received}.")
        folder, output = map(os.path.realpath, (self.folder, self.output))
        if folder in (output, *map(str, pathlib.Path(output).parents)):
            fail(
                "--output must be outside of FOLDER, or its pictures would be those of a class. "
                f"Received: {self.output} in {self.folder}."
            )
        if self.validation_share + self.test_share >= 1:
            fail(
                "--validation-share and --test-share must leave some to train on. Received: "
                f"{self.validation_share} and {self.test_share}."
            )

    @property
    def size(self) -> list[int] | None:
        """Height and width of the images as the command line has them."""
        return self.image_size and [self.image_size[0], self.image_size[-1]]

    def load_images(self) -> data.Images:
        """Returns the images of the folder."""
        return folder_images.load(self)

    def fitted(self, images: data.Images) -> "FolderSettings":
        """Returns settings in which all that depends on the pictures has a value.

        Args:
            images: Images of the folder.
        """
        count, side = len(images.train[0]), min(images.shape[:2])
        steps = max(1, count // min(self.batch_size, count))
        return dataclasses.replace(
            self,
            epochs=self.epochs or int(np.clip(round(_STEPS / steps), *_EPOCHS)),
            max_shift=self.max_shift or max(1, side // 16),
            cutout_size=self.cutout_size or max(1, side // 4),
            asked=self.run.arguments,
        )

    @property
    def run(self) -> Run:
        # A run goes on with what its command line said: the same pictures give the same rest.
        run = super().run
        return dataclasses.replace(run, arguments=self.asked or run.arguments)

    def weights_of_classes(self, images: data.Images) -> np.ndarray | None:
        """Returns the weight of each class in the loss, or None for equal ones; tells of them.

        Args:
            images: Images of the folder.
        """
        labels, number = images.train[1], images.num_classes
        asked = self.class_weights
        if asked == "none" or not (asked or class_weights.are_unequal(labels, number)):
            return None
        weights = class_weights.balanced(labels, number)
        print(class_weights.in_words(weights, labels, images.class_names))
        return weights

    def build(self, images: data.Images) -> keras.Model:
        """Returns the network for images, not compiled; ends the program where there is none."""
        from networks import capsnets

        try:
            return capsnets.build(self, images.shape, images.num_classes)
        except backbones.WeightsError as error:
            fail(error)
        except ValueError as error:
            fail(f"{error} Give another --image-size, or another network")
