"""Memory of one process that trains, saves, loads, exports and predicts, again and again.

A round trains a capsule network on the digits for a few steps more, writes its checkpoint, loads
it, exports it to ONNX, and predicts with ONNX Runtime and with Keras, which must agree; networks
with two routings take turns. Each round adds the resident memory, after a collection of garbage,
to memory.csv; at the end, or at Ctrl-C, memory.png shows it over time. The growth is the Theil–Sen
slope over the second half of the time, times its duration, as a share of its median: single rounds
do not move it.

`--new-models` trains new networks in each round, and calls `keras.backend.clear_session()` after
it. Each compiles its own step, which TensorFlow keeps for as long as the process lives.
"""

import pathlib

import program

from export.command import Parser, fail, positive


def main():
    program.set_up("tensorflow")
    import keras
    from soak_rounds import GROWTH_TARGET, MIN_ROUNDS, draw, growth, soak, write_run
    from timing import verdict

    from pictures_of import data

    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=positive(float), default=60.0)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a new folder")
    parser.add_argument("--new-models", action="store_true", help="in each round")
    args = parser.parse_args()
    program.print_title("Soak")
    try:
        args.output.mkdir(parents=True)
    except OSError as error:
        fail(f"--output {args.output} cannot be made: {error.strerror}")
    keras.utils.set_random_seed(0)
    images = data.load("digits")
    write_run(images, args.output)
    seconds, mib = soak(args, images)
    if len(mib) < MIN_ROUNDS:
        fail(f"interrupted after {len(mib)} rounds, which are too few to tell", code=130)
    per_cent, line = growth(seconds, mib)
    half = f"growth over the last half {per_cent:+.2f} %"
    rounds = f"{len(mib)} rounds in {seconds[-1] / 60:.1f} minutes"
    draw(seconds, mib, line, f"{rounds}: {half}", args.output / "memory.png")
    print(
        f"\n{rounds}, {mib[0]:.0f} MiB after the first and {mib[-1]:.0f} MiB after the last, "
        f"{half} ({verdict(per_cent, GROWTH_TARGET)})"
    )


if __name__ == "__main__":
    main()
