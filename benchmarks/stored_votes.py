"""Dynamic routing with votes of one kind, whichever kind the library would choose."""

import contextvars

from kcaps.routing import DynamicRouting, stored_votes

# A variable of the context, because threads compile rows at the same time.
_FORCED = contextvars.ContextVar("forced", default=None)
_prefers_stored_votes = stored_votes.prefers_stored_votes


def _rule(*args):
    forced = _FORCED.get()
    return _prefers_stored_votes(*args) if forced is None else forced


class ForcedVotes(DynamicRouting):
    """Dynamic routing whose votes are stored, or factored, on all devices and for all sizes.

    Args:
        stored: Whether the votes are stored.
        **kwargs: Arguments of `kcaps.routing.DynamicRouting`.
    """

    def __init__(self, stored: bool, **kwargs):
        super().__init__(**kwargs)
        self.stored = stored

    def call(self, inputs, kernel, components_first=False, training=None):
        stored_votes.prefers_stored_votes = _rule  # It leaves other routings as they are.
        token = _FORCED.set(self.stored)
        try:
            return super().call(inputs, kernel, components_first, training)
        finally:
            _FORCED.reset(token)

    def get_config(self):
        return {**super().get_config(), "stored": self.stored}
