"""One file per algorithm: its settings and its loss.

A module here knows tensors and nothing else. It defines

* ``Settings``: a `MethodSettings` subclass whose ``algorithm`` is a ``Literal`` of its name,
* ``parts(settings)``: which of the scenario's sets each stream reads,
* ``streams(settings)``: how many rows of each stream a step needs,
* ``loss(streams, settings)``: the named terms of the loss.
"""
