"""The page as a target of the exporter: its files, its check in a browser, and its report."""

import dataclasses
import pathlib

import keras
import numpy as np
import onnx
from keras import ops

import kcaps
from export import browser, graph, web_page, web_runtime
from export.comparing import compare_model
from export.errors import ParityError
from export.files import file_hash
from export.images import Images
from export.onnx_target import Onnx
from export.outputs import class_columns, class_output
from export.pipeline import Job, Target
from export.reference import Reference
from export.session import open_file, runner
from kcaps.backend.keras_private import origin

_ONNX = Onnx()
_REBUILT = "reconstruction"
_UNCHECKED = "NOT CHECKED in a browser"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Web(Target):
    """A folder of static files; `export.web.export_web` explains the settings."""

    file_name = "web"

    runtime: pathlib.Path | str | None = None
    objects: int | None = None
    has_browser: bool = True

    def refuse(self, path):
        if path.is_symlink() or (path.exists() and not web_page.is_page(path)):
            raise ValueError(f"{path} exists and is not a page. Give another output folder.")
        if self.objects is not None and (type(self.objects) is not int or self.objects < 1):
            raise ValueError(
                f"`objects` must be a positive integer. Received: objects={self.objects!r}."
            )
        web_runtime.check(self.runtime)

    def export(self, model, path, test_images=None, checkpoint=None, on_step=None):
        objects = self.objects or web_page.objects_in(checkpoint)
        has_decoder = getattr(model, "decoder", None) is not None
        target = dataclasses.replace(self, objects=objects, with_decoder=has_decoder)
        return super(Web, target).export(model, path, test_images, checkpoint, on_step)

    def write(self, job):
        network = _Network.of(job)
        if self.objects > len(network.labels):
            raise ValueError(
                "`objects` must not exceed the number of classes, "
                f"{len(network.labels)}. Received: objects={self.objects}."
            )
        job.path.mkdir()
        web_runtime.copy(self.runtime, job.path / "runtime")
        version = f"{web_runtime.PACKAGE} {web_runtime.VERSION}"
        is_foreign = isinstance(self.runtime, str)
        state = f"from {self.runtime}" if is_foreign else "SHA-256 as expected"
        job.done("runtime", f"{version}, {state}")
        web_page.copy_sources(job.path, self.runtime)
        _ONNX.write(network.job)
        if network.decoder is not None:
            proto = graph.convert(network.decoder, _ONNX.opset, name="masked_poses")
            proto = graph.simplify(proto)
            graph.finish(proto, [_REBUILT], None, {graph.PRODUCER: kcaps.__version__})
            job.done("decoder", graph.check(proto))
            onnx.save(proto, job.path / "decoder.onnx")

    def compare(self, job):
        network = _Network.of(job)
        checked = dataclasses.replace(_ONNX, tolerance=self.tolerance)
        comparison = checked.compare(network.job)
        studied = network.outputs(job.test_images.test[: web_page.STUDIED], self.objects)
        rows = [*comparison.rows, *self._decoder_rows(job, network, studied)]
        pictures = web_page.pictures_of(job.test_images, job.about)
        self._write_about(job, network, studied, pictures, comparison.accuracy_after)
        rows += self._page_rows(job, network, pictures)
        return dataclasses.replace(comparison, rows=rows)

    def _decoder_rows(self, job, network, studied):
        """Compares the decoder's file with the decoder, on capsules of the test images."""
        if network.decoder is None:
            return []
        session = open_file(str(job.path / "decoder.onnx"), ["CPUExecutionProvider"])
        images = Images(studied.masked_poses(), description="capsules of the test images")
        reference = Reference(network.decoder)
        comparison = compare_model(reference, runner(session), images, self.tolerance)
        comparison.verify()
        return comparison.rows

    def _write_about(self, job, network, studied, pictures, accuracy):
        """Writes what the page tells of the model, and its test images."""
        image = network.model.inputs[0]
        reported = web_page.accuracy_of(job.checkpoint)  # on all of the test images
        accuracy = accuracy if reported is None else reported
        shape = list(image.shape[1:])
        known = job.test_images.test[: web_page.STUDIED]
        known = None if pictures.is_random else web_page.in_bytes(known, job.about)
        sha256, has_poses = file_hash(job.path / _ONNX.file_name), studied.poses is not None
        about = {
            "labels": network.labels,
            "input_shape": shape,
            "input_dtype": image.dtype,
            "input_range": list(job.about.input_range),
            "fit": job.about.fit,
            "class_output": network.class_output,
            "num_classes": network.model.output[network.class_output].shape[1],
            "objects": self.objects,
            "pose_dim": studied.poses.shape[2] if has_poses else None,
            "has_decoder": network.decoder is not None,
            "spread": web_page.spread(studied.poses, studied.winners) if has_poses else None,
            "drawing": web_page.drawing(known, shape, self.objects) if shape[2] == 1 else None,
            "pictures": {
                "count": len(pictures.pixels),
                "shown": not pictures.is_random,
                "labels": pictures.labels,
            },
            "runtime": web_runtime.describe(self.runtime),
            "facts": web_page.facts(job, accuracy, sha256),
        }
        web_page.write(job.path, about, pictures)

    def _page_rows(self, job, network, pictures):
        """Compares the outputs of the page with Keras' for its test images.

        Where there is no browser, there are no rows, and the step says so.
        """
        path = browser.find() if self.has_browser else None
        reason = "no Chromium or Chrome was found" if self.has_browser else "--no-browser"
        if path is not None:
            try:
                version, answers = web_page.answers(job.path, path, len(pictures.pixels))
                return self._compared_rows(job, network, pictures, version, answers)
            except browser.BrowserError as error:
                reason = f"{path}: {error}"
            except browser.PageError as error:
                raise ParityError(f"the page fails in the browser: {error}") from error
        job.done("browser", f"{_UNCHECKED}: {reason}")
        return []

    def _compared_rows(self, job, network, pictures, version, answers):
        model, count = network.with_pictures(self.objects), len(answers)
        found = {
            name: np.reshape(
                [answer["outputs"][name] for answer in answers], (count, *tensor.shape[1:])
            ).astype("float32")
            for name, tensor in model.output.items()
        }
        pixels = job.about.scaled(pictures.pixels, model.inputs[0].dtype)
        images = Images(pixels, description="images of the page")
        comparison = compare_model(
            Reference(model), lambda _: found, images, self.tolerance, (count,)
        )
        comparison.verify()
        middle = np.median([answer["milliseconds"] for answer in answers])
        job.done(
            "browser",
            f"{version}, {images}, {comparison.differences}, {middle:.1f} ms an inference",
        )
        title = f"browser, {count} images"
        return [dataclasses.replace(row, batch=title) for row in comparison.rows]

    def describe(self, job):
        files = sorted(path for path in job.path.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(job.path).as_posix()): path.stat().st_size for path in files}
        total = sum(sizes.values())
        checked = next(x["result"] for x in job.steps if x["step"] == "browser")
        return {
            "format": "web",
            "kcaps": kcaps.__version__,
            "precision": "float32",
            "tolerance": self.tolerance,
            "objects": self.objects,
            "runtime": f"{web_runtime.PACKAGE} {web_runtime.VERSION}",
            "browser": checked,
            "is_checked_in_browser": not checked.startswith(_UNCHECKED),
            "bytes": total,
            "bytes_without_runtime": total
            - sum(size for name, size in sizes.items() if name.startswith("runtime/")),
            "sha256": {name: file_hash(job.path / name) for name in sizes},
            "checkpoint_sha256": job.checkpoint and job.checkpoint.sha256,
        }

    def finish(self, job, report):
        (job.path / "report.json").write_text(report.json(), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class _Network:
    """The model of a page in its two files: the network of classes, and the decoder or None.

    Args:
        job: A job whose reference and whose path are those of the network's file.
        decoder: Model from masked poses to a dict of the image, or None.
        labels: Names of the classes; numbers, where they are not known.
        class_output: Name of the network's output of classes.
    """

    job: Job
    decoder: keras.Model | None
    labels: list
    class_output: str

    @classmethod
    def of(cls, job):
        """Returns the network of a job; a `ValueError` if its model is not one for a page."""
        reference, rebuilt = job.reference, job.reference.model.output.get(_REBUILT)
        image = reference.model.inputs[0]
        web_page.check_image(image)
        name = class_output(reference.model.output)
        if name is None:
            raise ValueError("`model` must have an output of one value for each class, for a page.")
        decoder = None
        if job.reference.model.output.get("poses") is not None and rebuilt is not None:
            layer, node = origin(rebuilt)
            poses = keras.Input(node.input_tensors[0].shape[1:], name="masked_poses")
            decoder = keras.Model(poses, {_REBUILT: layer(poses)})
        network = dataclasses.replace(reference, model=_without(reference.model, _REBUILT))
        count = network.num_classes
        labels = job.about.labels or [str(i) for i in range(2 if count == 1 else count)]
        part = dataclasses.replace(
            job,
            reference=network,
            folded=_without(job.folded, _REBUILT),
            path=job.path / _ONNX.file_name,
        )
        return cls(part, decoder, list(labels), name)

    @property
    def model(self) -> keras.Model:
        return self.job.reference.model

    def outputs(self, images, objects):
        """Returns what the capsules of images are, as `_Studied`."""
        images = images.astype(self.model.inputs[0].dtype)
        outputs = self.model.predict(images, batch_size=64, verbose=0)
        values = class_columns(outputs[self.class_output])
        winners = np.argsort(-values, axis=1, kind="stable")[:, :objects]
        return _Studied(outputs.get("poses"), winners)

    def with_pictures(self, objects):
        """Returns the model that the page computes: with an image for each class that is found."""
        outputs = dict(self.model.output)
        if self.decoder is not None:
            _, order = ops.top_k(outputs[self.class_output], objects)
            for place in range(objects):
                mask = ops.one_hot(order[:, place], outputs["poses"].shape[1])
                rebuilt = self.decoder(outputs["poses"] * ops.expand_dims(mask, -1))[_REBUILT]
                outputs[f"rebuilt_{place + 1}"] = rebuilt
        return keras.Model(self.model.inputs, outputs)


@dataclasses.dataclass(frozen=True)
class _Studied:
    """The poses of some images `(n, classes, components)` or None, and their classes `(n, k)`."""

    poses: np.ndarray | None
    winners: np.ndarray

    def masked_poses(self):
        """Returns the poses with all capsules but one set to zero, for each class of each image."""
        masks = np.eye(self.poses.shape[1], dtype="float32")[self.winners]  # (n, k, classes)
        masked = self.poses[:, np.newaxis] * masks[..., np.newaxis]
        return masked.reshape(-1, *self.poses.shape[1:])


def _without(model, name):
    """Returns a model without one of its outputs."""
    outputs = {key: tensor for key, tensor in model.output.items() if key != name}
    return keras.Model(model.inputs, outputs, name=model.name)
