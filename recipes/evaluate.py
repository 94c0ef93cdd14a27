"""Measures the weights that come with kcaps on the test images, beside what is stated of them."""

from export.command import fail, set_up


def main():
    set_up()
    from harness import settings, tables
    from networks import zoo

    asked = settings.read(zoo.Evaluation, __doc__)
    rows = []
    for card in asked.cards():
        images = asked.load_images(card.data)
        rows.append(zoo.row(card, zoo.accuracy(card, images)))
    if not rows:
        fail("there are no weights to measure")
    if asked.output:
        tables.write_csv(asked.output, rows)
    print(zoo.markdown(rows), end="")


if __name__ == "__main__":
    main()
