"""One file per algorithm: its settings and its loss.

A module here knows tensors and nothing else. It defines

* ``Settings``: a `MethodSettings` subclass whose ``algorithm`` is a ``Literal`` of its names,
* ``draws(settings)``: what each stream of a step reads,
* ``loss(streams, settings)``: the named terms of the loss, their sum is minimised,

and, where it needs them,

* ``reads(settings)``: hidden states other than the final ones,
* ``prepare(first, ids, settings, seed)``: tensors that are fixed before training, from the streams
  of the first step in the untrained model (no gradients) and the token ids of each stream's rows;
  `loss` then takes them as a third argument, and they are saved beside the model,
* ``finished(streams, settings)``: why training ends before its last step, or None.
"""
