"""Helpers of tests with random input: the number of cases, and values of every kind."""

import inspect

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

_ANY_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD


def fuzz(few, many, **strategies):
    """Makes a test of a check: a few cases in each run of the tests, many in the long one.

    The cases are the same each time, and nothing is kept between runs.

    Args:
        few, many: Numbers of cases; few may be None.
        **strategies: Of the check's arguments. Others are fixtures.
    """

    def decorate(check):
        def test(count, **fixtures):
            def case(**drawn):
                check(**fixtures, **drawn)

            options = hypothesis.settings(
                max_examples=count,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[hypothesis.Phase.generate],  # cases are small; making them smaller is slow
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            options(hypothesis.given(**strategies)(case))()

        fixtures = [name for name in inspect.signature(check).parameters if name not in strategies]
        parameters = [inspect.Parameter(name, _ANY_KIND) for name in ("count", *fixtures)]
        test.__signature__ = inspect.Signature(parameters)
        test.__name__, test.__doc__, test.__module__ = (
            check.__name__,
            check.__doc__,
            check.__module__,
        )
        counts = [pytest.param(many, marks=pytest.mark.long), *([few] if few else [])]
        return pytest.mark.parametrize("count", counts)(test)

    return decorate


HUGE = st.sampled_from([2**31, 2**63, 10**400])
NUMBERS = st.one_of(
    st.integers(-3, 5),
    HUGE,
    st.floats(-2, 3),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308]),
    st.builds(np.int64, st.integers(-1, 4)),
    st.builds(np.float32, st.floats(-1, 2, width=32)),
)
SCALARS = st.one_of(
    NUMBERS, st.none(), st.booleans(), st.sampled_from(["", "3", "x", b"3", np.bool_(True)])
)
ANYTHING = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(NUMBERS, min_size=1, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from(["class_name", "config", "x"]), SCALARS, max_size=2),
    st.sampled_from([np.array([1, 2]), np.array(3), object(), {1, 2}]),
)
