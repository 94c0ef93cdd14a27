"""Runs all that needs a GPU, in order of value, within so many minutes.

Each job is a process of its own with a deadline: benchmarks of layers, steps, memory and inference,
which have the GPU for themselves, and trainings, of which several run at once. A job that ends
leaves its row in campaign.csv, with the GPU's name, versions and the commit, and its own results in
a folder of its name. Started again, the campaign goes on: finished jobs are not run again, and
trainings that were cut go on from their last epoch. Neither git nor a network is needed.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys

import program

from export.command import Parser, fail, positive, tell_how_to_resume

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("keras", "jax", "torch", "numpy", "onnxruntime", "onnxruntime-gpu")


def read_arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = Parser(__doc__)
    number = {"type": positive(int)}
    parser.add_argument("--minutes", type=positive(float), default=9.0, help="of all jobs together")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("campaign/"))
    parser.add_argument(
        "--data-dir", default="data", metavar="FOLDER", help="with mnist.npz, fashion_mnist.npz, …"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="with a model, and exported ONNX files, for inference (default: one of Table II)",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="names of jobs, or beginnings of them"
    )
    parser.add_argument("--precision", default="mixed_bfloat16", help="of training")
    parser.add_argument("--epochs", help="of Table II (default: 20)", **number)
    parser.add_argument("--seeds", default=3, help="of Table II, at last", **number)
    parser.add_argument("--parallel", default=3, help="trainings at once", **number)
    parser.add_argument("--archive", type=pathlib.Path, help="a .tar.gz of all small results")
    parser.add_argument("--commit", help="name of the commit, where there is no git")
    parser.add_argument("--list", action="store_true", help="print the jobs, and run none")
    program.add_quick(parser)
    return parser.parse_args()


def chosen_jobs(args: argparse.Namespace) -> list:
    """Returns the jobs that the command line asks for and whose backend is installed."""
    from campaign_jobs import Plan

    plan = Plan(
        output=str(args.output.absolute()),
        data_dir=os.path.abspath(args.data_dir),
        checkpoint=args.checkpoint and os.path.abspath(args.checkpoint),
        precision=args.precision,
        epochs=args.epochs,
        seeds=args.seeds,
        quick=args.quick,
    )
    jobs = plan.jobs()
    names, chosen = [job.name for job in jobs], set()
    for start in args.only or [""]:
        found = [start] if start in names else [name for name in names if name.startswith(start)]
        if not found:
            fail(f"--only must be names of jobs or their beginnings, see --list. Received: {start}")
        chosen |= set(found)
    return [job for job in jobs if job.name in chosen and importlib.util.find_spec(job.backend)]


def gpu() -> dict[str, str]:
    """Returns the name of the GPU and its driver's version, as far as there is one."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        name, driver = found.splitlines()[0].split(", ")
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        name, driver = "", ""
    return {"gpu": name, "driver": driver, "cpu_cores": str(os.cpu_count())}


def provenance(commit: str) -> dict[str, str]:
    """Returns the columns that tell where the numbers of a job come from."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    return gpu() | versions | {"commit": commit}


def environment(job, output: pathlib.Path, commit: str) -> dict[str, str]:
    """Returns the environment variables of a job."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "KERAS_BACKEND": job.backend,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "KCAPS_COMMIT": commit,
        # Several processes share the GPU, and what JAX compiled.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "JAX_COMPILATION_CACHE_DIR": str(output.absolute() / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }


def describe(folder: pathlib.Path) -> str:
    """Returns the test errors in a job's folder, or how far its trainings have come."""
    from campaign_runner import read

    found = []
    for row in read(folder / "cells.csv"):
        error = row.get("test_error") or 100 - 100 * float(row["test_accuracy"])
        found.append(f"seed {row['seed']}: test error {float(error):.2f} %")
    if not found:
        for path in sorted(folder.rglob("history.csv")):
            if not (epochs := read(path)):
                continue
            names = [name for name in epochs[0] if name[:4] == "val_" and name != "val_loss"]
            best = max(float(row[names[0]]) for row in epochs)
            found.append(f"{len(epochs)} epochs, validation error {100 - 100 * best:.2f} %")
    return "; ".join(found)


def end_by_signals() -> None:
    """Has Ctrl-C and a request to terminate end the campaign's jobs, too.

    A script that runs the campaign in its background would have it, and its jobs, ignore Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def main():
    # The campaign itself computes nothing, and any backend will do for it.
    os.environ.setdefault("KERAS_BACKEND", "jax" if importlib.util.find_spec("jax") else "torch")
    args = read_arguments()
    jobs = chosen_jobs(args)
    if args.list:
        return print(*(" ".join([job.name, *job.words]) for job in jobs), sep="\n")
    program.set_up()
    tell_how_to_resume("the same command goes on")
    end_by_signals()
    from campaign_runner import Campaign

    commit = args.commit or program.commit()
    campaign = Campaign(
        jobs,
        args.output,
        60 * args.minutes,
        environment=lambda job: environment(job, args.output, commit),
        provenance=provenance(commit),
        parallel=args.parallel,
        archive=args.archive,
        describe=describe,
    )
    try:
        campaign.run()
    except OSError as error:
        fail(f"--output {args.output} cannot be written: {error}")
    print("\n| job | status | seconds | result |\n| --- | --- | --- | --- |")
    for row in campaign.rows.values():
        print(f"| {row['name']} | {row['status']} | {row['seconds']} | {row['result']} |")
    print(f"\ncampaign.csv in {args.output}{os.sep}")


if __name__ == "__main__":
    main()
