"""Searches for hyper-parameters by keras-tuner; the best model is trained again and kept.

An interrupted search goes on where it stopped: give the same command again. Several processes
share a search by keras-tuner's own environment variables: one with KERASTUNER_TUNER_ID=chief,
which serves the trials and trains the best model at the end, and any number of others, each with
an ID of its own, which run the trials; KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT tell all of
them where the chief listens. Anybody who reaches that port can take part: keep it to yourself.
"""

from export.command import fail, set_up


def main():
    set_up()
    from harness import run_folder
    from search import folder, results, settings, trials

    asked = settings.read(__doc__.splitlines()[0])
    trials.set_up()
    role = trials.read_role()
    folder.check(asked)
    if role != "worker":
        run_folder.check_output(asked.run)
    share = settings.HYPERMODELS[asked.model].validation_share
    images = asked.load_images(validation_share=share)
    search = folder.open_search(asked, images, is_worker=role == "worker")
    print(
        f"{asked.recipe}: {asked.model} on {images.title}, {len(images.train[0])} training images, "
        f"search in {asked.search}",
        flush=True,
    )
    try:
        if role == "worker":
            search.work(lambda: folder.check(asked))
        else:
            search.serve() if role == "chief" else search.search()
            results.finish(search, images, asked)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on with the search", code=130)


if __name__ == "__main__":
    main()
