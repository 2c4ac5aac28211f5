"""Two trainings in one workdir, of one process and of two."""

import json
import os
import signal

import pytest

from agcnn_jax.runtime.workdir_lock import FILE
from tests.pods.interrupted import entries, has_begun
from tests.pods.refusals import said
from tests.support.processes import DEMO, Run


@pytest.mark.slow
def test_the_second_is_told_of_the_first_or_takes_over(data_dir, runs):
    workdir = runs / "twice"

    def training(**settings):
        options = ("--config.epochs=200", "--config.log_every=1", "--config.peer_timeout=4")
        places = (f"--config.data.dir={data_dir}", f"--workdir={workdir}")
        return Run("train.py", *DEMO, *options, *places, **settings)

    def holder():
        return json.loads((workdir / FILE).read_text())["process"]

    with training(processes=1) as first:
        first.wait_for(has_begun(workdir, "1_global"))
        pid = first[0].pid
        assert holder() == pid
        with training() as second:
            ends = second.finish()
        assert [status for status, _, _ in ends] == [75, 75]
        for _, _, stderr in ends:
            [line] = said(stderr)
            assert f"{workdir} is being trained by process {pid} on {os.uname().nodename}" in line
        assert "waiting up to 4 s" in ends[0][1]
        assert first[0].poll() is None

        os.kill(pid, signal.SIGSTOP)
        with training() as second:
            second.wait_for(lambda: holder() == second.worker(0))
            os.kill(pid, signal.SIGCONT)
            [(status, _, stderr)] = first.finish(timeout=60)
            assert status == 75
            [line] = said(stderr)
            assert f"was taken over by process {second.worker(0)}" in line
            before = len(entries(workdir))
            second.wait_for(lambda: len(entries(workdir)) > before + 2)
            second[1].terminate()
            assert [status for status, _, _ in second.finish()] == [75, 75]
    assert not (workdir / FILE).exists()
