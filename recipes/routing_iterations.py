"""Shows what more iterations of dynamic routing do to trained networks: table and picture."""

from export.command import set_up


def main():
    set_up()
    from harness import measurements, provenance, settings, tables
    from reproduction import iterations

    asked = settings.read(iterations.Settings, __doc__)
    source = provenance.here()  # a commit made while this runs is not what runs
    models, images = iterations.load(asked)
    test_images, labels = (part[: asked.images] for part in images.test)
    traces = [iterations.measure(m, test_images, labels, asked.iterations) for m in models]
    rows, output = iterations.summarise(traces), asked.model[0]
    tables.write_csv(output / "routing_iterations.csv", rows)
    picture = output / "routing_iterations.png"
    iterations.draw(rows, models[0].class_layer.routing.num_iterations, images.title, picture)
    print(iterations.markdown(rows), end="")
    print(
        f"{len(labels)} test images of {images.title}; {picture} and routing_iterations.csv written"
    )
    measurements.add(asked.measurements, iterations.measured(models, images, rows, source))


if __name__ == "__main__":
    main()
