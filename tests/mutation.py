"""A plugin for mutation testing: mutmut's wrappers hide a layer's arguments from Keras."""

import inspect

from mutmut.mutation import trampoline

wrap_in_trampoline = trampoline.wrap_in_trampoline


def wrap_with_signature(*args, **kwargs):
    wrap = wrap_in_trampoline(*args, **kwargs)

    def decorate(function):
        wrapper = wrap(function)
        wrapper.__signature__ = inspect.signature(function)  # which Keras reads of `__init__`
        return wrapper

    return decorate


trampoline.wrap_in_trampoline = wrap_with_signature
