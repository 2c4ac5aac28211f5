"""The manifests of JobSets, and the Dockerfile."""

import re

import pytest
import yaml

from tests.launch.scripts import JOBSETS, LAUNCH, RUN_AGAIN, pod_of
from tests.support.programs import ROOT


@pytest.mark.parametrize("path", JOBSETS, ids=lambda path: path.name)
def test_jobset_restarts_on_75_and_fails_on_a_mistake(path):
    jobset = yaml.safe_load(path.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    [job] = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    # The first pod that fails ends the job; its status selects the policy.
    assert spec["backoffLimit"] == 0
    [rule] = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    assert RUN_AGAIN in rule["onExitCodes"]["values"]
    assert not {0, 1, 2} & set(rule["onExitCodes"]["values"])
    assert spec["parallelism"] == spec["completions"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy requires it
    assert pod["terminationGracePeriodSeconds"] >= 30
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_jobset_tpu_has_a_pod_for_each_host_of_its_topology():
    _, job, pod = pod_of("jobset_tpu.yaml")
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert job["template"]["spec"]["parallelism"] * chips == int(rows) * int(columns)


def test_jobset_gpu_names_its_first_pod_as_coordinator():
    jobset, job, pod = pod_of("jobset_gpu.yaml")
    [container] = pod["containers"]
    flags = dict(word.split("=", 1) for word in container["command"] if word.startswith("--"))
    host, port = flags["--coordinator_address"].split(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{job['name']}-0-0.{name}"
    assert container["ports"] == [{"containerPort": int(port)}]
    assert int(flags["--num_processes"]) == job["template"]["spec"]["parallelism"]
    assert flags["--process_id"] == "$(JOB_COMPLETION_INDEX)"


def test_dockerfile_installs_the_locked_versions_of_an_extra():
    text = (LAUNCH / "Dockerfile").read_text()
    assert '-c requirements.lock -e ".[train,$EXTRA,gcs]"' in text
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"EXTRA=(\w+)", text):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    for copied in re.search(r"^COPY (.*) \./$", text, re.MULTILINE)[1].split():
        assert (ROOT / copied).is_file()
