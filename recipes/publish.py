"""Puts the weights of a checkpoint among those that come with kcaps."""

from export.command import fail, set_up


def main():
    set_up()
    from export import checkpoint
    from harness import settings
    from kcaps.models import pretrained
    from networks import zoo
    from pictures_of import data

    asked = settings.read(zoo.Publication, __doc__)
    try:
        loaded = checkpoint.load(asked.model)
    except ValueError as error:
        fail(error)
    name = loaded.run["data"].get("name")
    if name not in zoo.LICENCES:
        fail(f"weights must be of {', '.join(zoo.LICENCES)}. Received: those of {name}.")
    zoo.publish(loaded, asked, data.load(name))
    print(zoo.markdown([zoo.row(each) for each in pretrained.cards()]), end="")


if __name__ == "__main__":
    main()
