"""The manifests: what Kubernetes, Ray's launcher and Ray's command line would refuse is refused here."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from evo.cli import app

MANIFESTS = Path(__file__).resolve().parent.parent / "cluster" / "manifests"
KUBERAY = sorted(MANIFESTS.glob("kuberay-*.yaml"))
# Fields of KubeRay v1.6, from its API reference.
CLUSTER_FIELDS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
JOB_FIELDS = {
    "entrypoint",
    "submissionMode",
    "backoffLimit",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "rayClusterSpec",
}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def clusters() -> list[dict[str, Any]]:
    specs = [d["spec"] for file in KUBERAY for d in documents(file) if d["apiVersion"] == "ray.io/v1"]
    return [spec.get("rayClusterSpec", spec) for spec in specs]


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_pods_and_claims_are_what_kubernetes_accepts() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    version = kubernetes_validate.latest_version()
    for cluster in clusters():
        for group in groups(cluster):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
            kubernetes_validate.validate(pod, version, strict=True)
    for document in (d for file in KUBERAY for d in documents(file) if d["apiVersion"] == "v1"):
        kubernetes_validate.validate(document, version, strict=True)


def test_clusters_grow_on_spot_machines_behind_a_token() -> None:
    assert len(clusters()) == 2
    for cluster in clusters():
        assert set(cluster) <= CLUSTER_FIELDS and cluster["authOptions"] == {
            "mode": "token",
            "secretName": "evo-ray-token",
        }
        assert cluster["enableInTreeAutoscaling"] and cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        (workers,) = cluster["workerGroupSpecs"]
        assert set(workers) <= GROUP_FIELDS and workers["minReplicas"] == 0 < workers["maxReplicas"]
        assert "spot" in str(workers["template"]["spec"]["nodeSelector"])
        mounts = [m["name"] for g in groups(cluster) for m in g["template"]["spec"]["containers"][0]["volumeMounts"]]
        assert mounts.count("runs") == 2, "driver and workers see the same run directory"


def test_the_job_runs_a_command_that_exists_and_goes_on_after_a_restart() -> None:
    (job,) = [d for d in documents(MANIFESTS / "kuberay-rayjob.yaml") if d["kind"] == "RayJob"]
    assert set(job["spec"]) <= JOB_FIELDS and job["spec"]["backoffLimit"] > 0
    program, command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert program == "evo" and "--or-resume" in arguments
    import typer

    parsed = typer.main.get_command(app).commands[command].make_context(command, list(arguments))  # type: ignore[attr-defined]
    assert parsed.params["address"] == "auto" and parsed.params["run_dir"] == "/runs/search"


def test_rays_launcher_accepts_the_cluster_file() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = documents(MANIFESTS / "ray-up-aws.yaml")[0]
    util.validate_config(util.prepare_config(config))
    assert config["available_node_types"]["spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for command in (config["head_start_ray_commands"][1], config["worker_start_ray_commands"][1]):
        assert command.startswith("RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/home/ray/.ray/auth_token")
    with pytest.raises(Exception, match="max_worker"):
        util.validate_config({**config, "max_worker": 3})


def test_every_option_of_ray_start_exists_and_the_job_server_stays_on_loopback() -> None:
    start = pytest.importorskip("ray.scripts.scripts").start
    known = {option for parameter in start.params for option in parameter.opts}
    texts = [(MANIFESTS / name).read_text() for name in ("ray-start.sh", "ray-up-aws.yaml")]
    for text in texts:
        used = [o for c in re.findall(r"ray start ((?:[^\n]|\\\n)*)", text) for o in re.findall(r"--[\w-]+", c)]
        assert used and set(used) <= known, set(used) - known
        assert "--dashboard-host=127.0.0.1" in text and "0.0.0.0" not in text


def test_the_recipe_is_a_shell_script_that_refuses_what_it_does_not_know() -> None:
    script = MANIFESTS / "ray-start.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    done = subprocess.run(["bash", str(script), "boss"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "must be head or worker, but got boss" in done.stderr


def test_all_manifests_run_the_same_ray() -> None:
    versions = {
        v
        for file in MANIFESTS.iterdir()
        for v in re.findall(r"(?:rayproject/ray:|rayVersion: \")([\d.]+)", file.read_text())
    }
    pinned = re.search(r"^ray==([\d.]+)$", (MANIFESTS.parents[1] / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None and versions == {pinned[1]}
