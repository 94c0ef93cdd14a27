"""Shows what more iterations of dynamic routing do to a trained network: table and picture."""

from export.command import set_up


def main():
    set_up()
    from harness import settings, tables
    from reproduction import iterations

    asked = settings.read(iterations.Settings, __doc__)
    model, images = iterations.load(asked)
    test_images, labels = (part[: asked.images] for part in images.test)
    rows = iterations.measure(model, test_images, labels, asked.iterations)
    tables.write_csv(asked.model / "routing_iterations.csv", rows)
    picture = asked.model / "routing_iterations.png"
    iterations.draw(rows, model.class_layer.routing.num_iterations, images.title, picture)
    print(iterations.markdown(rows), end="")
    print(
        f"{len(labels)} test images of {images.title}; {picture} and routing_iterations.csv written"
    )


if __name__ == "__main__":
    main()
