"""Manifests hold what KubeRay and Kubernetes know, and keep what the documentation promises of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

FOLDER = Path(__file__).parents[2] / "cluster_configs" / "kuberay"
SCHEMA = json.loads((Path(__file__).parent / "kuberay.schema.json").read_text())
KUBERNETES = "1.33"
RAY_MANIFESTS = ("raycluster", "rayjob", "rayservice")

Manifest = dict[str, Any]


def load(name: str) -> Manifest:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def cluster_of(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    return {"RayCluster": lambda: spec, "RayJob": lambda: spec["rayClusterSpec"]}.get(
        manifest["kind"], lambda: spec["rayClusterConfig"]
    )()


def groups_of(manifest: Manifest) -> list[Manifest]:
    cluster = cluster_of(manifest)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def check_pod(template: Manifest) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | template["metadata"]}
    kubernetes_validate.validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_a_manifest_has_kuberays_fields_and_kubernetes_pods(name: str):
    manifest = load(name)
    jsonschema.validate(manifest, SCHEMA)
    for group in groups_of(manifest):
        check_pod(group["template"])


def misspell_replicas(manifest: Manifest) -> None:
    cluster_of(manifest)["workerGroupSpecs"][0]["replica"] = 3


def misspell_auth_mode(manifest: Manifest) -> None:
    cluster_of(manifest)["authOptions"]["mode"] = "tokens"


def number_for_a_start_parameter(manifest: Manifest) -> None:
    cluster_of(manifest)["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


@pytest.mark.parametrize("spoil", [misspell_replicas, misspell_auth_mode, number_for_a_start_parameter])
@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_a_mistake_in_a_manifest_is_found(name: str, spoil: Callable[[Manifest], None]):
    manifest = load(name)
    spoil(manifest)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_a_mistake_in_a_pod_is_found():
    template = groups_of(load("raycluster"))[1]["template"]
    template["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pod(template)


def test_storage_is_a_claim_that_many_nodes_share():
    claim = load("storage")
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_a_cluster_asks_for_tokens_and_is_reached_from_within(name: str):
    cluster = cluster_of(load(name))
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", RAY_MANIFESTS)
def test_pods_take_fixed_resources_run_unprivileged_and_see_the_shared_folder(name: str):
    claim = load("storage")["metadata"]["name"]
    for group in groups_of(load(name)):
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        assert {volumes[mount["name"]]: mount["mountPath"] for mount in container["volumeMounts"]} == {claim: "/shared"}


def test_all_manifests_describe_the_same_cluster_and_a_service_has_its_port_beside():
    assert cluster_of(load("raycluster")) == cluster_of(load("rayjob"))
    service = cluster_of(load("rayservice"))
    ports = service["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    assert ports.pop(3) == {"name": "serve", "containerPort": 8000}
    assert service == cluster_of(load("raycluster"))


def test_the_monitor_selects_the_pods_and_a_port_they_have():
    monitor = load("podmonitor")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for group in groups_of(load("raycluster")):
        assert wanted <= group["template"]["metadata"]["labels"].items()
        ports = {port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
