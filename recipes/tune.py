"""Searches for hyper-parameters by keras-tuner; the best model is trained again and kept.

An interrupted search goes on where it stopped: give the same command again. Several processes
share a search by keras-tuner's own environment variables: one with KERASTUNER_TUNER_ID=chief,
which serves the trials and trains the best model at the end, and any number of others, each with
an ID of its own, which run the trials; KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT tell all of
them where the chief listens. Anybody who reaches that port can take part: keep it to yourself.
"""

import contextlib
import json
import pathlib
import shutil

import grpc
import keras

from export.command import fail, first_line, positive
from harness import run_folder, training
from pictures_of import data
from reproduction import methods
from search import results
from search.hypermodels import HYPERMODELS, REPRODUCED
from search.oracles import ORACLES, failure
from search.trials import TrialSearch, read_role

# What makes a search another one; --max-trials may be raised.
STUDY = ("model", "data", "budget", "tuner", "executions", "epochs", "batch_size")
STUDY += ("seed", "limit", "synthetic")


def add_arguments(parser):
    parser.add_argument(
        "--model", choices=list(HYPERMODELS), default="capsnet", help="whose space is searched"
    )
    parser.add_argument("--data", choices=list(data.SHAPES), default="digits", help="images")
    parser.add_argument(
        "--tuner", choices=list(ORACLES), default="random", help="how trials are chosen"
    )
    parser.add_argument(
        "--max-trials", type=positive(int), default=20, help="trials; may be raised later"
    )
    parser.add_argument(
        "--executions", type=positive(int), default=1, help="trainings of each trial"
    )
    parser.add_argument(
        "--budget",
        choices=methods.BUDGETS,
        default="cpu",
        help=f"of reproduce.py's networks and training: {', '.join(REPRODUCED)}",
    )
    parser.add_argument("--batch-size", type=positive(int), help="default: by --model")
    parser.add_argument(
        "--search",
        type=pathlib.Path,
        help="folder of the search and its results (default: --output with -search after it)",
    )
    parser.add_argument(
        "--silence",
        type=positive(float),
        default=60.0,
        help="seconds without a sign of life after which a worker of several counts as dead",
    )
    parser.add_argument("--export", action="store_true", help="write and verify model.onnx too")
    refuse_unused(parser)


def refuse_unused(parser):
    """Refuses options that the model of a command line does not use."""

    def is_regression(args):
        return args.model == "capsule_regression"

    parser.refuse(
        ["--budget"],
        lambda args: args.model not in REPRODUCED,
        "only the models of reproduce.py have budgets, such as --model l1_routing",
    )
    parser.refuse(
        ["--batch-size"], is_regression, "capsule regression takes all images in each iteration"
    )
    parser.refuse(
        ["--executions"],
        is_regression,
        "capsule regression starts from the data, and all trainings of a trial are the same",
    )
    parser.refuse(
        ["--seed"],
        lambda args: is_regression(args) and args.tuner == "grid",
        "a grid of capsule regression draws nothing at random",
    )
    parser.refuse(
        ["--silence"],
        lambda args: read_role() == "alone",
        "the search has no workers. docs/tuning.md tells how to start some",
    )


def read_arguments():
    args = training.read_arguments(__doc__.splitlines()[0], None, add_arguments)
    if args.budget == "gpu" and not (args.model in REPRODUCED and args.data in methods.PUBLISHED):
        names = ", ".join(name for name in data.SHAPES if name in methods.PUBLISHED)
        fail(
            f"--budget gpu is not for --model {args.model} on --data {args.data}: give one of "
            f"{', '.join(REPRODUCED)} on one of {names}"
        )
    args.again = "the same command"
    epochs, batch_size = HYPERMODELS[args.model].defaults(args)
    args.epochs, args.batch_size = args.epochs or epochs, args.batch_size or batch_size
    args.search = args.search or pathlib.Path(f"{args.output}-search")
    return args


def check_search():
    """Refuses a folder that holds something else than this very search; changes nothing."""
    try:
        held = [path.name for path in args.search.iterdir()] if args.search.exists() else []
        if "study.json" in held:
            before = dict(json.loads((args.search / "study.json").read_text()))
        elif held:
            fail(f"--search {args.search} holds no search, but {held[0]}: give another folder")
        else:
            return
    except OSError as error:
        fail(f"--search {args.search} is not a folder that can be used: {error.strerror}")
    except (ValueError, TypeError) as error:
        fail(f"--search {args.search} is damaged: study.json: {first_line(error)}")
    for name, value in study().items():
        if before.get(name) != value and not args.overwrite:
            fail(
                f"--search {args.search} is of another study: {name} was {before.get(name)!r}, "
                f"received {value!r}. Give another folder, or replace it by --overwrite"
            )


def study():
    return {name: getattr(args, name) for name in STUDY}


def open_search():
    """The search, which goes on with what is in its folder; makes the folder, but for a worker."""
    if role != "worker" and args.overwrite:
        shutil.rmtree(args.search, ignore_errors=True)
    options = {"max_epochs": args.epochs} if args.tuner == "hyperband" else {}
    oracle = ORACLES[args.tuner](args.max_trials, args.seed, **options)
    hypermodel = HYPERMODELS[args.model](images, args)
    try:
        args.search.mkdir(parents=True, exist_ok=True)
        search = TrialSearch(
            oracle, hypermodel, args.search, args.executions, args.seed, args.silence
        )
        if role != "worker":
            run_folder.write_json(args.search / "study.json", study())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # of a damaged folder, or of data that cannot be fitted, such as too few images
        with contextlib.suppress(OSError):
            args.search.rmdir()  # if it is empty
        fail(f"the search in {args.search} cannot begin or go on: {first_line(error)}")
    return search


def work(search):
    """Runs trials of a chief until it has no more."""
    try:
        search.oracle.get_space()  # waits for the chief, which has written its study by then
        check_search()
        search.search()
    except grpc.RpcError as error:
        fail(f"the chief does not answer any more: {error.code().name}", code=1)
    print("worker: no more trials")


def report_of(oracle, best):
    """What `report.json` tells of the search, beside the model."""
    default = oracle.trials[oracle.start_order[0]]
    figures = {
        "trials": len(oracle.trials),
        "failed_trials": sum(trial.status == "FAILED" for trial in oracle.trials.values()),
        "best_trial": int(best.trial_id),
        "best_trial_validation_accuracy": best.score,
        "best_trial_validation_loss": best.metrics.get_last_value("val_loss"),
    }
    if default.score is not None:
        figures |= {
            "default_validation_accuracy": default.score,
            "default_validation_loss": default.metrics.get_last_value("val_loss"),
        }
    return figures


def finish(search):
    """Results of the search; the best model, trained again."""
    oracle = search.oracle
    print(results.write(oracle, images, args.search))
    best, *_ = results.ranked(oracle.trials.values()) or [None]
    if best is None:
        first = failure(oracle.trials[oracle.start_order[0]]) or "its worker tells why"
        fail(f"all {len(oracle.trials)} trials failed; the first: {first}", code=1)
    report = report_of(oracle, best)
    default = report.get("default_validation_accuracy")
    print(
        f"best of {len(oracle.trials)} trials: {best.trial_id}, validation accuracy "
        f"{100 * best.score:.2f} %; default: "
        f"{'failed' if default is None else f'{100 * default:.2f} %'}. Training it again",
        flush=True,
    )
    values = best.hyperparameters.copy()
    values.values = {k: v for k, v in values.values.items() if not k.startswith("tuner/")}
    args.hyperparameters = values.values
    keras.backend.clear_session()
    search.hypermodel.retrain(values, report)
    if args.export:
        export()


def export():
    from export.onnx_target import Onnx
    from export.pipeline import export_checkpoint

    export_checkpoint(Onnx(), args.output)


args = read_arguments()
role = read_role()
check_search()
if role != "worker":
    run_folder.check_output(args)
images = data.load(
    args.data, args.data_dir, args.limit, args.synthetic, HYPERMODELS[args.model].as_published
)
search = open_search()
print(
    f"{args.recipe}: {args.model} on {images.title}, {len(images.train[0])} training images, "
    f"search in {args.search}",
    flush=True,
)
try:
    if role == "worker":
        work(search)
    else:
        search.serve() if role == "chief" else search.search()
        finish(search)
except KeyboardInterrupt:
    fail("interrupted; the same command goes on with the search", code=130)
