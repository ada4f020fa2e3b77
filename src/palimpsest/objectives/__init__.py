"""One file per method: a class that holds its settings and its loss.

`palimpsest.objectives.base` says what such a class defines, `palimpsest.objectives.catalog` finds
them. The mathematics is in plain functions of tensors, in the file of the method.
"""
