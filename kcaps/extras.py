"""Packages that kcaps does not require, and that its extras bring."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed_by(user: str, extra: str, **packages: str) -> Iterator[None]:
    """Context of imports, in which the error of a missing package tells the extra that brings it.

    Args:
        user: The name of what needs the packages.
        extra: Name of the extra of kcaps.
        **packages: Names of packages, by the names of their modules.

    Raises:
        ModuleNotFoundError: for one of these packages. The error of another one, which a package
            itself lacks, is left as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = packages.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        raise ModuleNotFoundError(
            f"`{user}` needs {package}, of the extra kcaps[{extra}]. Install it: "
            f"pip install {package}",
            name=error.name,
        ) from None
