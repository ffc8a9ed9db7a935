"""The scripts of deploy/ are whole; walking them takes a database, a bucket and a proxy: deploy/walk.sh does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from kit.launching import train_options
from kubeflow_trainer_api import models

DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.mark.parametrize("script", sorted(path.name for path in DEPLOY.glob("*.sh")))
def test_a_script_is_whole_and_says_how_it_is_called(script):
    assert subprocess.run(["bash", "-n", str(DEPLOY / script)]).returncode == 0
    assert f"deploy/{script}" in (DEPLOY / script).read_text()


def play(store, programs):
    """Programs that are not here, as scripts; the PATH on which they are."""
    for name, text in programs.items():
        (store / name).write_text(f"#!/bin/sh\n{text}\n")
        (store / name).chmod(0o755)
    return f"{store}:{os.environ['PATH']}"


def preempted_and_again(store, command, environment):
    """What a job says that SLURM preempts in its first epochs, and that is then taken from the queue once more."""
    with (store / "out.txt").open("w") as out:
        job = subprocess.Popen(command, env=environment, cwd=store, stdout=out, stderr=out)
        while "epoch 1/3" not in (store / "out.txt").read_text():
            assert job.poll() is None, (store / "out.txt").read_text()
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(120) == 0
        assert (store / "requeued").read_text() == "requeue 7\n"
        assert subprocess.run(command, env=environment, cwd=store, stdout=out, stderr=out).returncode == 0
    said = (store / "out.txt").read_text()
    assert said.count("epoch 1/3") == said.count("epoch 3/3") == 1, said
    assert (store / "requeued").read_text() == "requeue 7\n"
    return said


@pytest.mark.slow
def test_a_job_that_slurm_preempts_puts_itself_into_the_queue_and_goes_on(store, dataset):
    """SLURM is not here: what it would do is done by hand, a signal to the script, and the script once more."""
    path = play(store, {"fmtl": f'exec {sys.executable} -m fmtl "$@"', "scontrol": 'echo "$@" >> requeued'})
    command = ["bash", str(DEPLOY / "slurm.sh"), *train_options(dataset.folder, epochs=3)]
    said = preempted_and_again(store, command, os.environ | {"PATH": path, "SLURM_JOB_ID": "7"})
    assert "it goes on after epoch 1" in said


def test_the_kubernetes_job_is_one_that_its_schema_allows():
    claim, job = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    template = job["spec"]["template"]["spec"]
    assert (claim["kind"], job["kind"], template["restartPolicy"]) == ("PersistentVolumeClaim", "Job", "Never")
    (container,) = template["containers"]
    volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in template["volumes"]}
    assert volumes[container["volumeMounts"][0]["name"]] == claim["metadata"]["name"]
    assert subprocess.run(["bash", "-n", "-c", container["args"][0]]).returncode == 0
    values = {tuple(rule["onExitCodes"]["values"]) for rule in job["spec"]["podFailurePolicy"]["rules"]
              if "onExitCodes" in rule}  # fmt: skip
    assert values == {(2, 3)}  # usage and data


def is_within(part, whole):
    """Whether all of it is there, beside what the API adds."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and is_within(v, whole[k]) for k, v in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(is_within, part, whole))
    return part == whole


@pytest.mark.parametrize("file", ["kubernetes.yaml", "trainjob.yaml"])
def test_every_field_is_one_that_its_api_has(file):
    """By the models that Kubeflow publishes of its own API and of Kubernetes': what they don't know they leave out."""
    known = {"TrainJob": models.TrainerV1alpha1TrainJob, "Job": models.IoK8sApiBatchV1Job,
             "PersistentVolumeClaim": models.IoK8sApiCoreV1PersistentVolumeClaim}  # fmt: skip
    written = list(yaml.safe_load_all((DEPLOY / file).read_text()))
    for document in written:
        read = known[document["kind"]].from_dict(document)
        assert is_within(document, read.to_dict()), document["kind"]
    assert len(written) == 2


def test_a_field_that_is_misspelt_is_noticed():
    document = list(yaml.safe_load_all((DEPLOY / "trainjob.yaml").read_text()))[1]
    document["spec"]["trainer"]["numNode"] = document["spec"]["trainer"].pop("numNodes")
    assert not is_within(document, models.TrainerV1alpha1TrainJob.from_dict(document).to_dict())


def test_the_nodes_of_a_trainjob_share_the_volume_that_it_claims():
    claim, job = yaml.safe_load_all((DEPLOY / "trainjob.yaml").read_text())
    (patch,) = job["spec"]["runtimePatches"]
    (nodes,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = nodes["template"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert pod["containers"][0]["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    (script,) = job["spec"]["trainer"]["args"]
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    assert f"--rdzv-id={job['metadata']['name']}" in script


@pytest.mark.slow
def test_a_job_of_several_nodes_that_is_preempted_goes_on(store, dataset):
    """SLURM is not here: srun runs the command once, on the one node that there is."""
    path = play(store, {
        "srun": 'shift; exec "$@"', "scontrol": '[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> requeued',
        "python": f'exec {sys.executable} "$@"',
    })  # fmt: skip
    environment = os.environ | {
        "PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "PER_NODE": "2",
        "SLURM_JOB_NODELIST": "here", "SLURM_CPUS_PER_TASK": "2", "PYTHONPATH": str(DEPLOY.parent),
    }  # fmt: skip
    command = ["bash", str(DEPLOY / "slurm-nodes.sh"), *train_options(dataset.folder, epochs=3)]
    assert "going on with run" in preempted_and_again(store, command, environment)
