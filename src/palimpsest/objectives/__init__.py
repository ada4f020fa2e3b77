"""One file per method: a class that holds its settings and its loss.

`palimpsest.objectives.base` is the base of these classes, and `palimpsest.objectives.catalog` lists
them. The mathematics is in plain functions of tensors, in the file of the method.
"""
