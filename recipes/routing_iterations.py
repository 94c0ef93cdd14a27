"""Shows what more iterations of dynamic routing do to a trained network: table and picture."""

from export.command import set_up


def main():
    set_up(backend="tensorflow")
    from harness import tables
    from reproduction import iterations

    asked = iterations.read_settings(__doc__)
    subject = iterations.load(asked)
    rows = iterations.measure(subject, asked.iterations)
    tables.write_csv(asked.model / "routing_iterations.csv", rows)
    picture = asked.model / "routing_iterations.png"
    iterations.draw(rows, subject, picture)
    print(iterations.markdown(rows), end="")
    print(
        f"{len(subject.labels)} test images of {subject.title}; {picture} and "
        "routing_iterations.csv written"
    )


if __name__ == "__main__":
    main()
