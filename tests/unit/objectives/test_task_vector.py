"""Plain task-vector negation: the loss by hand."""

from __future__ import annotations

from kit.by_hand import A, B, near, stream, terms


def test_task_vector_learns_the_forget_rows() -> None:
    assert terms("task_vector", {"forget": stream(A, B)}) == near(forget=2.25)
