"""Which rows a step reads."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from kit import models as tiny
from palimpsest.engine.rows import Row
from palimpsest.engine.sampler import (
    Pairs,
    Shuffled,
    Streams,
    Turns,
    generator,
    random_answers,
)
from palimpsest.errors import UserError
from reference import released

ROWS = tiny.rows([(3, 2 + i) for i in range(10)])


def ids(rows: list[Row]) -> list[str]:
    return [row.id for row in rows]


@pytest.mark.parametrize("batch", [1, 3, 4, 10])
def test_no_row_comes_again_before_all_have_come(batch: int) -> None:
    reader = Shuffled(ROWS, batch, seed=3, name="forget")
    read = list(itertools.chain.from_iterable(ids(reader.draw(step)) for step in range(20)))
    for first in range(0, len(read) - len(ROWS) + 1, len(ROWS)):
        assert sorted(read[first : first + len(ROWS)]) == sorted(ids(ROWS))


def test_every_forget_row_is_seen_where_the_released_order_rereads_the_first_ones() -> None:
    # The released loader is not shuffled and starts again with each pass over 20 normal batches.
    theirs = released.forget_order(rows=100, batch=2, normal_batches=20, max_steps=50)
    assert set(theirs) == set(range(40))
    rows = tiny.rows([(2, 2)] * 100)
    reader = Shuffled(rows, 2, seed=0, name="forget")
    assert {i for step in range(50) for i in ids(reader.draw(step))} == set(ids(rows))


def test_a_draw_is_a_function_of_seed_and_step_alone() -> None:
    one, other = (Shuffled(ROWS, 3, seed=1, name="forget") for _ in range(2))
    forward = [ids(one.draw(step)) for step in range(12)]
    backward = [ids(other.draw(step)) for step in reversed(range(12))]
    assert forward == backward[::-1]
    torch.manual_seed(99)  # the global generator has no part in it
    assert ids(Shuffled(ROWS, 3, seed=1, name="forget").draw(11)) == forward[11]


def test_seeds_and_streams_have_orders_of_their_own() -> None:
    orders = [ids(Shuffled(ROWS, 10, seed, name).draw(0)) for seed in (0, 1) for name in ("a", "b")]
    assert len({tuple(order) for order in orders}) == 4
    assert ids(Shuffled(ROWS, 10, 0, "a").draw(1)) != orders[0]


def test_sets_take_turns_and_the_first_is_read_as_if_it_were_alone() -> None:
    sets = [ROWS, tiny.rows([(2, 2 + i) for i in range(4)], name="b")]
    reader, alone = Turns(sets, 2, seed=1, name="forget"), Shuffled(ROWS, 2, 1, "forget")
    drawn = [ids(reader.draw(step)) for step in range(12)]
    assert drawn[::2] == [ids(alone.draw(step)) for step in range(6)]
    other = list(itertools.chain.from_iterable(drawn[1::2]))
    assert sorted(other[:4]) == sorted(other[4:8]) == sorted(ids(sets[1])), "each row once a pass"
    with pytest.raises(UserError, match="the forget 2 set is empty"):
        Turns([ROWS, []], 2, 0, "forget")


def test_an_empty_set_is_an_error() -> None:
    with pytest.raises(UserError, match="the forget set is empty: nothing to train on"):
        Shuffled([], 2, 0, "forget")


def test_a_set_smaller_than_a_batch_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(UserError) as refused:
        Streams({"forget": 4, "retain": 11}, {"forget": ROWS, "retain": ROWS}, 0)
    assert str(refused.value) == (
        "a step draws 11 rows of the retain set, which has 10; lower rows (or batch_rows), or use "
        "more rows"
    )
    assert len(Shuffled(ROWS, 10, 0, "retain").draw(0)) == 10, "as many are enough"


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(UserError, match="every term has the weight 0: nothing to train on"):
        Streams({}, {}, 0)


def test_rows_left_over_by_an_epoch_begin_the_next_step() -> None:
    """Analysis360 7 (12): the tail batch is used; 10 rows by 4 lose none of them."""
    reader = Shuffled(ROWS, 4, seed=0, name="forget")
    read = [i for step in range(5) for i in ids(reader.draw(step))]
    assert Counter(read) == dict.fromkeys(ids(ROWS), 2)


def test_generators_of_different_purposes_differ_and_repeat() -> None:
    draws = [
        torch.randint(2**40, (1,), generator=generator(seed, *purpose)).item()
        for seed, purpose in [(0, ("a", 1)), (0, ("a", 2)), (0, ("b", 1)), (1, ("a", 1))] * 2
    ]
    assert draws[:4] == draws[4:]
    assert len(set(draws)) == 4


def test_a_random_answer_is_never_the_own_one_and_comes_k_times() -> None:
    own = {row.id: row.response.tolist() for row in ROWS}
    for step in range(30):
        made = random_answers(ROWS[:4], ROWS, 3, seed=0, step=step)
        assert len(made) == 12
        for row, answers in zip(ROWS[:4], (made[i : i + 3] for i in range(0, 12, 3)), strict=True):
            texts = [tuple(a.response.tolist()) for a in answers]
            assert len(set(texts)) == 3, "drawn without replacement"
            for answer, text in zip(answers, texts, strict=True):
                assert torch.equal(answer.prompt, row.prompt)
                assert list(text) in own.values()
                assert list(text) != own[row.id]


def test_random_answers_are_drawn_anew_for_each_row_and_step() -> None:
    made = [
        tuple(r.id for r in random_answers(ROWS[:4], ROWS, 1, seed=0, step=step))
        for step in range(8)
    ]
    assert len(set(made)) > 5
    assert made[3] == tuple(r.id for r in random_answers(ROWS[:4], ROWS, 1, seed=0, step=3))
    same_for_all_rows = [len({i.split("+")[1] for i in step}) == 1 for step in made]
    assert not all(same_for_all_rows)


def test_all_other_rows_have_a_share_of_the_random_answers() -> None:
    drawn = Counter(
        random_answers(ROWS[:1], ROWS, 1, seed=0, step=step)[0].id for step in range(400)
    )
    assert len(drawn) == len(ROWS) - 1
    assert min(drawn.values()) > 20


def test_another_answer_to_the_same_question_is_not_a_random_answer() -> None:
    first, second, third = tiny.rows([(4, 3), (6, 5), (5, 2)])
    twin = Row("twin", torch.cat([first.prompt, second.response]), 4)
    echo = Row("echo", torch.cat([third.prompt, first.response]), 5)
    for step in range(20):
        made = random_answers([first], [first, twin, echo, third], 1, seed=0, step=step)
        assert made[0].response.tolist() == third.response.tolist()


def test_too_few_other_answers_are_an_error_that_names_the_row() -> None:
    message = "3 answers .* row row-0 the pool of 3 has 2; lower random_answers"
    with pytest.raises(UserError, match=message):
        random_answers(ROWS[:3], ROWS[:3], 3, seed=0, step=0)


def test_a_step_has_k_random_answers_for_each_of_its_forget_rows() -> None:
    sizes = {"forget": 4, "retain": 2, "random": 8}
    drawn = Streams(sizes, {"forget": ROWS, "retain": ROWS}, 0, {"random": ROWS}).draw(5)
    assert {name: len(rows) for name, rows in drawn.items()} == sizes
    prompts = [row.prompt.tolist() for row in drawn["forget"] for _ in range(2)]
    assert [row.prompt.tolist() for row in drawn["random"]] == prompts


def answers_of(rows: list[Row], k: int) -> dict[str, list[Row]]:
    return {
        row.id: [Row(f"{row.id}~{i}", row.ids, row.prompt_length) for i in range(k)] for row in rows
    }


def paired(rows: list[Row], k: int, seed: int = 0) -> Streams:
    answers = answers_of(rows, k)
    flat = [answer for of_row in answers.values() for answer in of_row]
    sizes = {"forget": 4, "wanted": 4}
    pairs = {"wanted": Pairs("forget", rows, answers)}
    return Streams(sizes, {"forget": rows, "wanted": flat}, seed, pairs=pairs)


def test_the_bth_wanted_answer_belongs_to_the_bth_row() -> None:
    streams = paired(ROWS, 3)
    for step in range(20):
        drawn = streams.draw(step)
        assert [answer.id.split("~")[0] for answer in drawn["wanted"]] == ids(drawn["forget"])


def test_k_passes_over_the_rows_have_each_pair_once() -> None:
    streams = paired(ROWS, 3)
    read = [i for step in range(15) for i in ids(streams.draw(step)["wanted"])]
    assert len(read) == 2 * 3 * len(ROWS)
    for first in (0, 30):
        pairs = Counter(read[first : first + 30])
        assert pairs == {f"{row.id}~{k}": 1 for row in ROWS for k in range(3)}


def test_which_answer_is_drawn_is_a_function_of_seed_and_step_alone() -> None:
    one, other = (paired(ROWS, 3) for _ in range(2))
    forward = [ids(one.draw(step)["wanted"]) for step in range(12)]
    backward = [ids(other.draw(step)["wanted"]) for step in reversed(range(12))]
    assert forward == backward[::-1]
    assert ids(paired(ROWS, 3).draw(11)["wanted"]) == forward[11]
    assert ids(paired(ROWS, 3, seed=1).draw(11)["wanted"]) != forward[11]
    orders = {tuple(i[-1] for i in forward[step]) for step in range(12)}
    assert len(orders) > 5, "not the same place of every row's list"


def test_wanted_answers_of_rows_that_no_stream_draws_have_an_order_of_their_own() -> None:
    answers = answers_of(ROWS, 2)
    pairs = {"refusal": Pairs("refusal", ROWS, answers)}
    streams = Streams({"refusal": 5}, {"refusal": ROWS}, 0, pairs=pairs)
    read = [i for step in range(4) for i in ids(streams.draw(step)["refusal"])]
    assert Counter(read) == {f"{row.id}~{k}": 1 for row in ROWS for k in range(2)}


def test_what_a_step_reads_is_said() -> None:
    """TOFU's batch of 32 is 8 times 4 in the paper and 4 times 4 times 2 in its scripts."""
    streams = Streams({"forget": 4, "mismatch": 8}, {"forget": ROWS}, 0, {"mismatch": ROWS})
    assert streams.budget(13) == "13 optimiser steps; each reads 4 of 10 forget rows (5.2 passes)"
