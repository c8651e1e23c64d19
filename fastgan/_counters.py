"""thop, which counts the operations of a model, counts a layer of ours as the stock layer that it is.

It looks up ``type(layer)`` in a table, and takes any other class for no work at all, without a word. It puts the model
into evaluation before it looks, which is when a layer of ours adds its class: thop may be imported before the layer is
made, or after.
"""

import sys


class Counted:
    """Mixed into a layer of ours that subclasses a stock one."""

    def train(self, mode: bool = True):
        kind, table = type(self), getattr(sys.modules.get("thop.profile"), "register_hooks", {})
        if kind not in table and kind.__module__ == "fastgan.nn":  # what subclasses do is theirs to say
            stock = next((each for each in kind.__mro__ if each in table), None)
            if stock is not None:
                table[kind] = table[stock]
        return super().train(mode)  # type: ignore[misc]  # of the stock layer
