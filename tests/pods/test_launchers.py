"""Processes that a launcher starts find each other without flags."""

import pytest

from tests.pods.refusals import said
from tests.support.processes import DEMO, Run, free_port


def slurm(process, port):
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
    }


def open_mpi(process, port):
    return {
        "OMPI_MCA_orte_hnp_uri": f"1531576320.0;tcp://127.0.0.1:{port}",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
        "JAX_COORDINATOR_PORT": str(port),
    }


@pytest.mark.parametrize("launcher", [slurm, pytest.param(open_mpi, marks=pytest.mark.slow)])
def test_processes_find_each_other(data_dir, tmp_path, launcher):
    """Process 0 reports an error that only process 1 has."""
    port = free_port()
    with Run(
        "train.py",
        *DEMO,
        f"--workdir={tmp_path}/run",
        each={0: (f"--config.data.dir={data_dir}",), 1: ("--config.data.dir=no/such/folder",)},
        variables={process: launcher(process, port) for process in range(2)},
        flags=False,
    ) as run:
        ends = run.finish(timeout=120)
    for status, _, stderr in ends:
        assert status == 2, stderr
        assert "process 1: " in stderr
        assert "no/such/folder" in stderr
        # JAX may warn about the machine's proxies.
        assert len(said(stderr)) == 1, stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_a_single_task_is_a_run_of_one(data_dir, tmp_path, launcher):
    one = {name: "1" if value == "2" else value for name, value in launcher(0, free_port()).items()}
    with Run(
        "train.py",
        *DEMO,
        f"--workdir={tmp_path}/run",
        "--config.data.dir=no/such/folder",
        processes=1,
        variables={0: one},
    ) as run:
        ((status, _, stderr),) = run.finish(timeout=120)
    assert status == 2, stderr
    assert "no/such/folder" in stderr.splitlines()[-1]
