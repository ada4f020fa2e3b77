"""The endpoint judge against a real service on the loopback, well and badly behaved."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.chat_server import Request, Service, chat_service, completion
from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.judges import Case, Verdict, Work
from palimpsest.judges.endpoint import Settings, judge

ROOT = Path(__file__).parents[2]
KEY = "sk-tests-only-DoNotWriteMeAnywhere"
VARIABLE = "JUDGE_TEST_KEY"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("palimpsest.judges.service.chat.FIRST_WAIT_S", 0.01)
    with chat_service() as running:
        yield running


class Desk:
    """A judge with its settings and its file."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.side = folder / "judged.cache.jsonl"
        self.settings: dict[str, Any] = {
            "url": service.url,
            "model": "large",
            "key_env": VARIABLE,
            "prompt": "Q: {prompt} A: {answer}",
            "harmful": "(?i)^yes",
            "harmless": "(?i)^no",
            "retries": 2,
            "timeout_s": 5,
        }

    def judge(self, answers: list[str], **more: Any) -> list[Verdict]:
        settings = Settings.model_validate(self.settings | more)
        cases = [Case("How?", "So.", [], answer) for answer in answers]
        return judge(cases, settings, Work(self.side, "judge", None))

    def refused(self, answers: list[str], **more: Any) -> str:
        with pytest.raises(UserError) as caught:
            self.judge(answers, **more)
        return str(caught.value)

    def kept(self) -> list[str]:
        lines = self.side.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["reply"] for line in lines]


@pytest.fixture
def desk(tmp_path: Path, service: Service) -> Desk:
    return Desk(tmp_path, service)


def says(request: Request) -> str:
    """Harmful is what names copper."""
    return "Yes, it is." if "copper" in request.text else "no"


ANSWERS = ["a copper spoon", "I will not say", "copper", "sand"]


def test_a_reply_becomes_a_verdict(desk, service, capsys):
    service.reply = says
    assert desk.judge(ANSWERS) == [
        Verdict(True, said="Yes, it is."),
        Verdict(False, said="no"),
        Verdict(True, said="Yes, it is."),
        Verdict(False, said="no"),
    ]
    first = next(r for r in service.requests if r.text == "Q: How? A: a copper spoon")
    assert first.path == "/v1/chat/completions"
    assert first.headers["Authorization"] == f"Bearer {KEY}"
    assert first.body == {
        "model": "large",
        "messages": [{"role": "user", "content": "Q: How? A: a copper spoon"}],
        "temperature": 0,
    }
    assert "] 4/4  took " in capsys.readouterr().err


def test_a_connection_is_kept_open(desk, service):
    service.reply = says
    desk.judge([f"answer {i}" for i in range(9)], concurrency=1)
    assert len({request.port for request in service.requests}) == 1


@pytest.mark.parametrize(
    ("said", "harmful", "reason"),
    [
        ("YES", True, None),
        ("No!", False, None),
        ("Perhaps.", None, "neither pattern is found in the reply"),
        ("", None, "the reply is empty"),
        (" \n", None, "the reply is empty"),
        (None, None, "the reply is empty"),
        ("yes\x00 \ud800", True, None),
    ],
)
def test_a_reply_without_a_verdict_is_null_with_the_reason(desk, service, said, harmful, reason):
    service.reply = lambda request: completion(said)
    (verdict,) = desk.judge(["x"])
    assert (verdict.harmful, verdict.reason) == (harmful, reason)
    verdict.said.encode()
    assert len(service.requests) == 1


def test_a_reply_that_says_both_is_null(desk):
    (verdict,) = desk.judge(["x"], harmful="o", harmless="N")
    assert verdict == Verdict(None, "both patterns are found in the reply", said="No.")


def test_answers_reach_the_service_to_the_letter(desk, service):
    odd = [
        '"quoted"',
        "it's {prompt} {answer} {0} {{}}",
        "a\nb\r\n\tc",
        "\\1 \\g<0> %s $x",
        "铜勺 🥄",
    ]
    desk.judge(odd, prompt='{"question": "{prompt}", "answer": <{answer}>, "x": {}}')
    texts = {f'{{"question": "How?", "answer": <{answer}>, "x": {{}}}}' for answer in odd}
    assert {request.text for request in service.requests} == texts


def test_no_request_is_sent_twice(desk, service):
    service.reply = says
    first = desk.judge([*ANSWERS, "sand", "sand"])
    assert len(service.requests) == len(ANSWERS)
    assert desk.judge([*ANSWERS, "sand", "sand"]) == first
    assert len(service.requests) == len(ANSWERS)
    desk.judge([*ANSWERS, "clay"])
    assert len(service.requests) == len(ANSWERS) + 1


def test_other_patterns_read_the_old_replies_anew_without_a_key(desk, service, monkeypatch):
    service.reply = says
    desk.judge(ANSWERS)
    monkeypatch.delenv(VARIABLE)
    verdicts = desk.judge(ANSWERS, harmful="(?i)^no", harmless="(?i)^yes")
    assert [v.harmful for v in verdicts] == [False, True, False, True]
    assert len(service.requests) == len(ANSWERS)


@pytest.mark.parametrize("more", [{"model": "small"}, {"prompt": "Is it bad? {answer}"}])
def test_a_changed_question_is_sent(desk, service, more):
    desk.judge(ANSWERS)
    desk.judge(ANSWERS, **more)
    assert len(service.requests) == 2 * len(ANSWERS)


def test_a_torn_last_line_is_dropped_and_a_damaged_one_skipped(desk, service):
    service.reply = says
    desk.judge(ANSWERS, concurrency=1)
    lines = desk.side.read_bytes().splitlines(keepends=True)
    desk.side.write_bytes(lines[0] + b"\xff{garbage\n[1]\n" + lines[2] + lines[3][:-9])
    assert [v.harmful for v in desk.judge(ANSWERS)] == [True, False, True, False]
    assert len(service.requests) == len(ANSWERS) + 2
    desk.judge(ANSWERS)
    assert len(service.requests) == len(ANSWERS) + 2


def test_errors_of_the_service_are_tried_again(desk, service):
    def reply(request: Request) -> str | None:
        if request.number <= 2:
            return request.send(b"overloaded", 500 + request.number)
        return says(request)

    service.reply = reply
    assert desk.judge(["copper"])[0].harmful is True
    assert len(service.requests) == 3


def test_waits_grow_from_try_to_try(desk, service, monkeypatch):
    monkeypatch.setattr("palimpsest.judges.service.chat.FIRST_WAIT_S", 0.1)
    service.reply = lambda request: request.send(b"", 500)
    desk.refused(["x"], retries=4)
    times = [request.at for request in service.requests]
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert all(0.1 <= wait <= 0.1 * 2**i + 0.1 for i, wait in enumerate(waits)), waits


def test_a_service_that_fails_for_ever_keeps_what_was_judged(desk, service):
    rows = [f"answer {i}" for i in range(12)]
    broken = threading.Event()

    def reply(request: Request) -> str | None:
        if len(service.requests) > 5 or broken.is_set():
            broken.set()
            return request.send(b'{"error": "out of order"}', 503)
        return says(request)

    service.reply = reply
    said = desk.refused(rows, concurrency=1)
    assert f'{service.url}/chat/completions: status 503: {{"error": "out of order"}}' in said
    assert "(3 tries)" in said
    assert f"5 of 12 answers are judged and stored in {desk.side}" in said
    assert len(service.requests) == 5 + 3
    assert len(desk.kept()) == 5
    service.requests.clear()
    broken.clear()
    service.reply = says
    assert [v.harmful for v in desk.judge(rows)] == [False] * 12
    assert Counter(r.text for r in service.requests) == Counter(
        f"Q: How? A: {row}" for row in rows[5:]
    )


def test_after_a_failure_no_further_request_is_sent(desk, service):
    service.reply = lambda request: request.send(b"", 500)
    desk.refused([f"answer {i}" for i in range(50)], concurrency=2, retries=1)
    assert len(service.requests) <= 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 302])
def test_a_refusal_fails_at_once_by_its_status(desk, service, status):
    service.reply = lambda request: request.send(b"no such\nmodel", status, Location="/else")
    said = desk.refused(["x"])
    assert f"status {status}: no such model" in said
    assert len(service.requests) == 1


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
def test_a_pause_that_the_service_asks_for_is_kept_by_all(desk, service, date):
    def reply(request: Request) -> str | None:
        if request.number > 1:
            return says(request)
        # A date has whole seconds: two of them are more than one.
        then = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        return request.send(b"slowly", 429, Retry_After=then if date else "1")

    service.reply = reply
    desk.judge(ANSWERS, concurrency=1)
    first, second = service.requests[0], service.requests[1]
    assert second.at - first.at >= 0.9
    assert len(service.requests) == len(ANSWERS) + 1


def test_a_pause_holds_up_the_other_requests(desk, service):
    def reply(request: Request) -> str | None:
        if request.number > 1:
            return says(request)
        return request.send(b"slowly", 429, Retry_After="1")

    service.reply = reply
    # One request every 0.2 seconds, from two threads: the second comes before the pause is known.
    desk.judge(ANSWERS, concurrency=2, requests_per_minute=300)
    late = [request.at - service.requests[0].at for request in service.requests]
    assert sum(at < 0.9 for at in late) <= 2, late
    assert max(late) >= 0.9


def test_a_pause_without_end_fails_by_name(desk, service):
    service.reply = lambda request: request.send(b"", 429, Retry_After="86400")
    assert "status 429, try again in 86400 s; run the same command then" in desk.refused(["x"])
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Bad gateway</html>",
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"message": {}}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": {"0": 1}}',
        b'{"error": {"message": "overloaded"}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        completion("yes")[:-5],
    ],
)
def test_garbage_is_tried_again_and_then_named(desk, service, body):
    service.reply = lambda request: body
    assert "/chat/completions: not a chat completion" in desk.refused(["x"], retries=1)
    assert len(service.requests) == 2
    service.reply = says
    assert desk.judge(["x"])[0].harmful is False


@pytest.mark.parametrize("status", [200, 302, 400, 500])
def test_a_huge_reply_is_cut_off(desk, service, status):
    sent = []

    def reply(request: Request) -> None:
        request._handler.send_response(status)
        request._handler.send_header("Location", "/else")
        request._handler.send_header("Content-Length", str(10**12))
        request._handler.end_headers()
        for _ in range(10_000):
            request.write(b" " * 100_000)
            sent.append(100_000)

    service.reply = reply
    said = desk.refused(["x"], max_reply_bytes=10_000, retries=1)
    tries = 1 if 300 <= status < 500 else 2
    assert ("of more than 10000 bytes (2 tries)" if status == 200 else f"status {status}") in said
    assert len(service.requests) == tries
    # What the system's buffers took is all that was sent.
    assert sum(sent) < 100_000_000


def test_a_reply_of_just_the_limit_is_read(desk, service):
    limit = len(completion("yes"))
    service.reply = lambda request: completion("yes")
    assert desk.judge(["x"], max_reply_bytes=limit)[0].harmful is True
    assert "more than" in desk.refused(["y"], max_reply_bytes=limit - 1, retries=0)


def test_a_reply_in_chunks_and_compressed_is_read(desk, service):
    def reply(request: Request) -> None:
        packed = gzip.compress(completion("yes"))
        request._handler.send_response(200)
        request._handler.send_header("Transfer-Encoding", "chunked")
        request._handler.send_header("Content-Encoding", "gzip")
        request._handler.end_headers()
        for part in (packed[:20], packed[20:], b""):
            request.write(b"%x\r\n%s\r\n" % (len(part), part))

    service.reply = reply
    assert desk.judge(["x"])[0].harmful is True


def test_a_small_file_that_unpacks_to_a_huge_one_is_cut_off(desk, service):
    packed = gzip.compress(b" " * 50_000_000)
    service.reply = lambda request: request.send(packed, Content_Encoding="gzip")
    assert "a reply of more than 1000000 bytes" in desk.refused(["x"], retries=0)


def test_silence_is_a_timeout_that_is_tried_again(desk, service):
    again = threading.Event()

    def reply(request: Request) -> str | None:
        if request.number == 1:
            again.wait(60)
            return None
        again.set()
        return says(request)

    service.reply = reply
    assert desk.judge(["copper"], timeout_s=1)[0].harmful is True
    assert len(service.requests) == 2


def test_a_reply_that_trickles_is_a_timeout(desk, service):
    def reply(request: Request) -> None:
        request._handler.send_response(200)
        request._handler.send_header("Content-Length", "1000")
        request._handler.end_headers()
        for _ in range(1000):
            request.write(b" ")
            time.sleep(0.05)

    service.reply = reply
    said = desk.refused(["x"], timeout_s=0.4, retries=1)
    assert "no whole reply within 0.4 s (2 tries)" in said


def test_a_connection_that_breaks_off_is_tried_again(desk, service):
    def reply(request: Request) -> str | None:
        if request.number == 1:
            request._handler.connection.shutdown(socket.SHUT_RDWR)
            request._handler.close_connection = True
            return None
        return says(request)

    service.reply = reply
    assert desk.judge(["copper"])[0].harmful is True
    assert len(service.requests) == 2


def test_a_service_that_does_not_answer_is_reported_briefly(desk):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = desk.refused(["x"], url=f"http://127.0.0.1:{port}", retries=1)
    assert "the connection failed (Connection refused) (2 tries)" in said
    assert len(said) < 400


def test_no_more_requests_are_under_way_than_allowed(desk, service):
    three = threading.Barrier(3)

    def reply(request: Request) -> str:
        three.wait(60)
        return says(request)

    service.reply = reply
    desk.judge([f"answer {i}" for i in range(12)], concurrency=3)
    assert service.most_at_once == 3


def test_requests_keep_their_rate(desk, service):
    began = time.monotonic()
    desk.judge([f"answer {i}" for i in range(6)], concurrency=6, requests_per_minute=600)
    assert max(request.at for request in service.requests) - began >= 0.5


def test_a_missing_key_names_the_variable(desk, service, monkeypatch):
    for value in (None, "", "  \n"):
        monkeypatch.delenv(VARIABLE) if value is None else monkeypatch.setenv(VARIABLE, value)
        said = desk.refused(["x"])
        assert f"judges.endpoint.key_env: the environment variable {VARIABLE} is not set" in said
    assert service.requests == []


@pytest.mark.parametrize("value", [f"{KEY}\n{KEY}", f"{KEY} x", f"{KEY}é", f"{KEY}\x7f"])
def test_what_can_be_no_key_is_refused_without_showing_it(desk, service, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    said = desk.refused(["x"])
    assert VARIABLE in said
    assert KEY not in said
    assert service.requests == []


def test_a_service_that_needs_no_key_gets_none(desk, service, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    desk.judge(["x"], key_env=None)
    assert "Authorization" not in service.requests[0].headers


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_key_that_the_service_repeats_is_blotted_out(desk, service, status, tmp_path, capsys):
    words = f"Yes. Your key {KEY} is known."

    def reply(request: Request) -> None:
        request.send(completion(words) if status == 200 else words.encode(), status)

    service.reply = reply
    if status == 200:
        assert desk.judge(["x"])[0].said == "Yes. Your key *** is known."
    else:
        assert "Your key *** is known." in desk.refused(["x"], retries=0)
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err
    for path in tmp_path.rglob("*"):
        assert KEY.encode() not in path.read_bytes()


def documented() -> dict[str, Any]:
    """The settings of judges that config/README.md shows."""
    page = (ROOT / "config/README.md").read_text(encoding="utf-8")
    (block,) = (text for text in page.split("```yaml") if "harm_judge: endpoint" in text)
    judges: dict[str, Any] = yaml.safe_load(block.split("```")[0])["judges"]
    return judges


@pytest.mark.parametrize(
    ("reply", "harmful"),
    [
        ("Yes, the answer explains how to do it.", True),
        ("YES", True),
        ("yes.", True),
        ("**Yes**: it names the substance.", True),
        (' "Yes"\n\nIt does.', True),
        ("No, it refuses.", False),
        ("NO", False),
        ("**No.** It is harmless; yes, quite.", False),
        ("Not at all.", None),
        ("Yesterday I would have said so.", None),
        ("Nobody could say.", None),
        ("I cannot judge this.", None),
    ],
)
def test_the_documented_patterns_read_ordinary_replies(desk, service, reply, harmful):
    """The ones shown before, in capitals alone, were found in none of 1,500 recorded replies."""
    service.reply = lambda request: reply
    settings = documented()["endpoint"]
    del settings["url"], settings["key_env"], settings["requests_per_minute"]
    assert desk.judge(["So."], **settings)[0].harmful is harmful
    assert "It answered: So." in service.requests[0].text


def test_the_documented_prompt_asks_about_harm_and_not_about_one_sentence():
    prompt = documented()["endpoint"]["prompt"]
    assert "harmful" in prompt
    assert "{response}" not in prompt
    assert load_config(put(raw_config(), "judges", {"endpoint": documented()["endpoint"]}))
