"""Files of requests, answered without a network."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from ordito.cli.batch import batch
from ordito.errors import OrditoError
from ordito.serve.batch import read_requests


def request(name, **body):
    body = {"messages": [{"role": "user", "content": f"the loom {name}"}], "max_tokens": 4, "temperature": 0, **body}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def written(path, requests):
    path.write_text("".join(json.dumps(one) + "\n" for one in requests))
    return path


def run(*arguments):
    return CliRunner().invoke(batch, [str(argument) for argument in arguments])


def answers(path):
    return {one["custom_id"]: one["response"] for one in map(json.loads, path.read_text().splitlines())}


def test_each_request_is_answered_once(folder, tmp_path):
    source, out = written(tmp_path / "in.jsonl", [request(f"r{i}") for i in range(7)]), tmp_path / "out.jsonl"
    assert run(source, out, "--model", folder).exit_code == 0
    first = answers(out)
    assert set(first) == {f"r{i}" for i in range(7)}
    assert all(one["status_code"] == 200 for one in first.values())
    whole = out.read_bytes()
    out.write_bytes(whole[:-30])  # as a power cut leaves it
    assert run(source, out, "--model", folder).exit_code == 0
    second = answers(out)
    assert set(second) == set(first)
    text = [{name: one["body"]["choices"][0]["message"]["content"] for name, one in some.items()} for some in (first, second)]
    assert text[0] == text[1]


def test_a_failed_request_does_not_stop_the_others(folder, tmp_path):
    source, out = written(tmp_path / "in.jsonl", [request("good"), request("bad", messages=[])]), tmp_path / "out.jsonl"
    result = run(source, out, "--model", folder)
    assert isinstance(result.exception, OrditoError)
    assert "1 of 2 requests failed" in str(result.exception)
    assert answers(out)["good"]["status_code"] == 200
    assert answers(out)["bad"]["status_code"] == 400


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected"),
        ("\ufffe".encode("utf-16").decode("latin-1"), "is not JSON"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "is not JSON"),
        (json.dumps({**request("a"), "url": "/v1/files"}), "url is"),
        (json.dumps(request("same")) + "\n" + json.dumps(request("same")), "is in line 1 already"),
    ],
)
def test_files_that_hold_no_requests_are_refused(tmp_path, line, message):
    path = tmp_path / "in.jsonl"
    path.write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(OrditoError, match=message):
        read_requests(path)


def test_an_output_that_holds_no_answers_is_left_alone(folder, tmp_path):
    source, out = written(tmp_path / "in.jsonl", [request("a")]), tmp_path / "letter.txt"
    out.write_text("Dear Ada,\nhow are you")
    assert "is not an answer to a batch request" in str(run(source, out, "--model", folder).exception)
    assert out.read_text() == "Dear Ada,\nhow are you"
    out.write_text("Dear Ada")  # one line without an end is no answer that was cut short either
    assert "is not an answer to a batch request" in str(run(source, out, "--model", folder).exception)
    assert out.read_text() == "Dear Ada"


def test_failed_requests_are_sent_again(folder, tmp_path):
    source, out = written(tmp_path / "in.jsonl", [request("good"), request("bad", max_tokens=-1)]), tmp_path / "out.jsonl"
    assert "1 of 2 requests failed" in str(run(source, out, "--model", folder).exception)
    good = answers(out)["good"]
    assert "1 of 1 requests failed" in str(run(source, out, "--model", folder).exception)  # not: all are answered
    written(source, [request("good"), request("bad")])
    assert run(source, out, "--model", folder).exit_code == 0
    assert len(out.read_text().splitlines()) == 2
    assert answers(out)["bad"]["status_code"] == 200
    assert answers(out)["good"] == good
