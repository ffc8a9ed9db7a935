"""The scripts of deploy/ are whole; walking them takes a database, a bucket and a proxy: deploy/walk.sh does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.mark.parametrize("script", sorted(path.name for path in DEPLOY.glob("*.sh")))
def test_a_script_is_whole_and_says_how_it_is_called(script):
    assert subprocess.run(["bash", "-n", str(DEPLOY / script)]).returncode == 0
    assert f"deploy/{script}" in (DEPLOY / script).read_text()


@pytest.mark.slow
def test_a_job_that_slurm_preempts_puts_itself_into_the_queue_and_goes_on(store, dataset):
    """SLURM is not here: what it would do is done by hand, a signal to the script, and the script once more."""
    for name, text in {"fmtl": f'exec {sys.executable} -m fmtl "$@"', "scontrol": 'echo "$@" >> requeued'}.items():
        (store / name).write_text(f"#!/bin/sh\n{text}\n")
        (store / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{store}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    options = ["--data", str(dataset.folder), "--backbone", "test_efficientnet", "--weights", "none", "--px", "32",
               "--batch-size", "16", "--epochs", "3", "--gallery", "false", "--extra-plots", "false", "--precision",
               "fp32", "--channels-last", "false"]  # fmt: skip
    command = ["bash", str(DEPLOY / "slurm.sh"), *options]
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
    assert said.count("epoch 1/3") == said.count("epoch 3/3") == 1 and "it goes on after epoch 1" in said
    assert (store / "requeued").read_text() == "requeue 7\n"


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
