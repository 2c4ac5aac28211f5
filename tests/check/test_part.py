"""Slow hosts, and what the file of a check may show to others."""

import getpass
import json
import os

import pytest

from agcnn_jax.check.part import Part, report, slow_ones, table


@pytest.mark.parametrize(
    ("seconds", "least", "slow"),
    [
        ([1, 1, 3, 1], 0, [2]),
        ([1, 1, 2.9, 1], 0, []),
        ([1, 1, 3, 1], 3.1, []),
        ([1, 3], 0, [1]),
        ([5], 0, []),
        ([], 0, []),
    ],
)
def test_slow_ones_take_three_times_the_median_of_the_others(seconds, least, slow):
    assert slow_ones(seconds, least) == slow


def test_the_table_names_what_failed():
    part = Part("network", {}, ("one", "two"), ("it is down; mend it",))
    assert table(part) == "network  one\n         two\n         FAILED: it is down; mend it"


def test_the_file_shows_nothing_private(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "homes/jane"))
    monkeypatch.setenv("LOGNAME", "jane")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "se/cr+et(1")
    monkeypatch.setenv("HARMLESS", "shown")
    home = os.path.expanduser("~")
    johns, joes, maxs = "/home" + "/john", "/Users" + "/joe", "/home" + "/max"
    assert getpass.getuser() == "jane"
    failures = (
        f"{home}/runs/a cannot be written by jane; not shown to hf_abcdef123, se/cr+et(1",
        f"process 1 on node-7.lab of gs://secret-bucket/runs, {johns}/data, {joes}, /root/x",
        f"'{maxs}' is janet's, as node-71 is",
    )
    part = Part("who", {"processes": [{"host": "node-7.lab"}], home: 1}, (), failures)
    content = report([part], {"data.dir": f"{home}/data", "init": "random"}, ["node-7.lab"])
    assert [one["what"] for one in content["failures"]] == [
        "~/runs/a cannot be written by USER; not shown to ***, ***",
        "process 1 on host0 of gs://BUCKET/runs, ~/data, ~, ~/x",
        "'~' is janet's, as node-71 is",
    ]
    assert content["who"] == {"processes": [{"host": "host0"}], "~": 1}
    assert content["config"] == {"data.dir": "~/data", "init": "random"}
    assert content["passed"] is False
    for private in ("jane/", "hf_abc", "se/cr", "homes", "node-7.lab", "john", "secret-bucket"):
        assert private not in json.dumps(content)
