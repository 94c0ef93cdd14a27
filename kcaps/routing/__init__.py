"""Routings: how the capsules of one layer decide on those of the next.

Every routing has one interface, `routing(inputs, kernel) -> poses`, and one line in the table
below; `get` turns names, configs and objects into objects.
"""

import functools

import keras

from kcaps.routing.discriminative import DiscriminativeRouting as DiscriminativeRouting
from kcaps.routing.dynamic import DynamicRouting as DynamicRouting
from kcaps.routing.dynamic import routing_objective as routing_objective
from kcaps.routing.em import EMRouting as EMRouting
from kcaps.routing.inverted_attention import InvertedAttentionRouting as InvertedAttentionRouting
from kcaps.routing.routing import Routing as Routing
from kcaps.routing.routing import couplings_to_fold as couplings_to_fold
from kcaps.routing.self_attention import SelfAttentionRouting as SelfAttentionRouting
from kcaps.routing.stored_votes import StoredVotes as StoredVotes
from kcaps.routing.stored_votes import VotesOfOne as VotesOfOne
from kcaps.routing.stored_votes import votes_of as votes_of
from kcaps.routing.uniform import UniformRouting as UniformRouting
from kcaps.routing.votes import Votes as Votes
from kcaps.routing.votes import batch_first as batch_first

ROUTINGS = {
    "dynamic": DynamicRouting,
    "l1": functools.partial(DiscriminativeRouting, penalty="l1"),
    "l2": functools.partial(DiscriminativeRouting, penalty="l2"),
    "em": EMRouting,
    "self_attention": SelfAttentionRouting,
    "inverted_attention": InvertedAttentionRouting,
    "uniform": UniformRouting,
}


def get(identifier):
    """Returns a routing from its name, its config, or itself.

    Args:
        identifier: A name from `ROUTINGS`, a dict made by `serialize`, or a `Routing`.

    Returns:
        A `Routing`; a new one unless `identifier` is one.

    Raises:
        ValueError: for anything else, with the valid names.

    Example:

    >>> kcaps.routing.get("dynamic").num_iterations
    3
    """
    if isinstance(identifier, Routing):
        return identifier
    if isinstance(identifier, str) and identifier in ROUTINGS:
        return ROUTINGS[identifier]()
    if isinstance(identifier, dict):
        return deserialize(identifier)
    names = ", ".join(repr(name) for name in ROUTINGS)
    raise ValueError(
        f"`routing` must be one of {names}, a config, or an instance of kcaps.routing.Routing. "
        f"Received: routing={identifier!r}."
    )


def serialize(routing: Routing):
    """Returns the config of a routing as a dict that `deserialize` accepts.

    Args:
        routing: A `Routing`.

    Returns:
        A dict of plain values, as all of Keras' configs.

    Example:

    >>> kcaps.routing.serialize(EMRouting(num_iterations=2))["config"]["num_iterations"]
    2
    """
    return keras.saving.serialize_keras_object(routing)


def deserialize(config: dict):
    """Returns a new routing from the config made by `serialize`.

    Args:
        config: A dict, the config of a routing of kcaps or of a registered subclass of `Routing`.

    Returns:
        A `Routing`, with weights of its own if it has any.

    Raises:
        ValueError: if the config is not that of a routing.

    Example:

    >>> config = kcaps.routing.serialize(EMRouting(num_iterations=2))
    >>> kcaps.routing.deserialize(config).num_iterations
    2
    """
    classes = [getattr(entry, "func", entry) for entry in ROUTINGS.values()]
    plain_names = {cls.__name__: cls for cls in classes}
    try:
        routing = keras.saving.deserialize_keras_object(config, custom_objects=plain_names)
    except (TypeError, KeyError) as error:
        raise ValueError(f"`routing` is not the config of a routing: {error}") from error
    if not isinstance(routing, Routing):
        raise ValueError(
            "`routing` must be the config of a kcaps.routing.Routing. "
            f"Received the config of: {type(routing).__name__}."
        )
    return routing
