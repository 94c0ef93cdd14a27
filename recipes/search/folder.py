"""The folder of a search: whether it may begin or go on there, and its beginning."""

import contextlib
import json
import shutil

from export.command import fail, first_line
from harness import tables
from pictures_of.data import Images
from search.oracles import ORACLES
from search.settings import HYPERMODELS, Settings
from search.trials import TrialSearch


def check(settings: Settings) -> None:
    """Refuses a folder that holds something else than this very search; changes nothing."""
    folder = settings.search
    try:
        held = [path.name for path in folder.iterdir()] if folder.exists() else []
        if not held:
            return
        if "study.json" not in held:
            fail(f"--search {folder} holds no search, but {held[0]}: give another folder")
        begun_with = dict(json.loads((folder / "study.json").read_text()))
    except OSError as error:
        fail(f"--search {folder} is not a folder that can be used: {error.strerror}")
    except (ValueError, TypeError) as error:
        fail(f"--search {folder} is damaged: study.json: {first_line(error)}")
    for name, value in settings.study.items():
        if begun_with.get(name) != value and not settings.overwrite:
            fail(
                f"--search {folder} is of another study: {name} was {begun_with.get(name)!r}, "
                f"received {value!r}. Give another folder, or replace it by --overwrite"
            )


def open_search(settings: Settings, images: Images, is_worker: bool) -> TrialSearch:
    """Returns the search, which goes on with what is in its folder; makes the folder.

    Args:
        settings: What is searched.
        images: Images that it trains on.
        is_worker: Whether another process leads the search.
    """
    folder = settings.search
    if settings.overwrite and not is_worker:
        shutil.rmtree(folder, ignore_errors=True)
    limits = {"max_epochs": settings.epochs} if settings.tuner == "hyperband" else {}
    oracle = ORACLES[settings.tuner](settings.max_trials, settings.seed, **limits)
    hypermodel = HYPERMODELS[settings.model](images, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        search = TrialSearch(
            oracle, hypermodel, folder, settings.executions, settings.seed, settings.silence
        )
        if not is_worker:
            tables.write_json(folder / "study.json", settings.study)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # The folder is damaged, or the data cannot be fitted: there are too few images, perhaps.
        with contextlib.suppress(OSError):  # the folder is not empty
            folder.rmdir()
        fail(f"the search in {folder} cannot begin or go on: {first_line(error)}")
    return search
