"""Studies what updates or initialisations do to capsule regression: table and picture."""

from export.command import set_up


def main():
    set_up()
    from harness import settings, study, training
    from pictures_of.data import PUBLISHED_VALIDATION_SHARE
    from regression.comparisons import Comparison
    from regression.settings import STUDIES, ComparisonSettings

    asked = settings.read(ComparisonSettings, __doc__)
    training.check_backend()
    images = asked.load_images(validation_share=PUBLISHED_VALIDATION_SHARE)
    names = ("data", "synthetic", "limit", "capsule_dim", "epochs")
    arguments = {name: getattr(asked, name) for name in names}
    study.open_folder(asked.output, asked.study, arguments, STUDIES)
    comparison = Comparison(asked, images)
    print(f"{asked.study}: {images.title}, {len(comparison.labels)} training images", flush=True)
    result = comparison.run()
    print(f"{images.title}, {result}; {asked.output / asked.study}.png written")


if __name__ == "__main__":
    main()
