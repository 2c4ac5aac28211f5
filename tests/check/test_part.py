"""Slow hosts, and what the file of a check may show to others."""

import getpass
import json
import os

import pytest

from agcnn_jax.check.part import Part, report, slow_ones, table
from agcnn_jax.runtime import cluster

HOSTS = ["node-7.lab", "jane-pc.lab"]


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
    (tmp_path / "disk").mkdir()
    (tmp_path / "homes").mkdir()
    os.symlink(tmp_path / "disk", home)
    johns, joes, maxs = "/home" + "/john", "/Users" + "/joe", "/home" + "/max"
    roots = "/root" + "/x"
    assert getpass.getuser() == "jane"
    failures = (
        f"{home}/runs/a and {os.path.realpath(home)}/b cannot be written by jane; "
        f"not shown to hf_abcdef123, se/cr+et(1",
        f"process 1 on node-7.lab of gs://secret-bucket/runs, {johns}/data, {joes}, {roots}",
        f"'{maxs}' is janet's, as node-71 is",
        "/scratch/jane_runs on jane-pc.lab, https://user:word@store.lab/run?sig=a,1&t=2 gone",
    )
    part = Part("who", {"processes": [{"host": "node-7.lab"}], home: 1}, (), failures)
    content = report([part], {"data.dir": f"{home}/data", "init": "random"}, HOSTS)
    assert [one["what"] for one in content["failures"]] == [
        "~/runs/a and ~/b cannot be written by USER; not shown to ***, ***",
        "process 1 on host0 of gs://BUCKET/runs, ~/data, ~, ~/x",
        "'~' is janet's, as node-71 is",
        "/scratch/USER_runs on host1, https://BUCKET/run gone",
    ]
    assert content["who"] == {"processes": [{"host": "host0"}], "~": 1}
    assert content["config"] == {"data.dir": "~/data", "init": "random"}
    assert content["passed"] is False
    for private in ("jane/", "hf_abc", "se/cr", "homes", "node-7.lab", "john", "secret-bucket"):
        assert private not in json.dumps(content)


def test_the_coordinator_is_not_shown(monkeypatch):
    for address, shown in (
        ("head.lab:1234", "COORDINATOR resolves to 127.0.1.1"),
        ("node-7.lab:1234", "host0 resolves to 127.0.1.1"),
        ("127.0.1.1:1234", "127.0.1.1 resolves to 127.0.1.1"),
    ):
        monkeypatch.setattr(cluster, "coordinator", lambda address=address: address)
        failure = f"{address.partition(':')[0]} resolves to 127.0.1.1"
        [found] = report([Part("who", {}, (), (failure,))], {}, HOSTS)["failures"]
        assert found["what"] == shown
