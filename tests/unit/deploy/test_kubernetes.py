"""deploy/kubernetes: objects of Kubernetes and of KubeRay checked by their published schemas.

No package has KubeRay's schemas: KUBERAY_CRDS names the folder `helm-chart/kuberay-operator/crds` of a release of
KubeRay. Without it the fields that we use are held to the list below, and no other is allowed; pod templates, which are
most of them, are always checked as the pods that KubeRay makes of them. Ray's own reader of a RayCluster is asked what
its autoscaler understands.
"""

import copy
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.fakes.deployment import DEPLOY, KUBERNETES, manifest
from unisd_rl.config.load import load_recipe

VERSION = "1.33"
CLUSTER, JOB = manifest("cluster/raycluster.yaml"), manifest("job/rayjob.yaml")
SPECS = {"RayCluster": CLUSTER["spec"], "RayJob": JOB["spec"]["rayClusterSpec"]}

GROUP_FIELDS = {"rayStartParams": dict, "template": dict}
WORKER_FIELDS = GROUP_FIELDS | {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}
CLUSTER_FIELDS = {
    "rayVersion": str,
    "authOptions": dict,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
JOB_FIELDS = {
    "entrypoint": str,
    "submissionMode": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "rayClusterSpec": dict,
}


def assert_fields(given: dict, known: dict) -> None:
    assert set(given) <= set(known)
    assert {name: type(value) for name, value in given.items()} == {name: known[name] for name in given}


def groups(spec: dict) -> dict[str, dict]:
    return {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}


def assert_valid(kind: dict) -> None:
    kubernetes_validate.validate(json.loads(json.dumps(kind)), VERSION, strict=True)


def test_the_validator_sees_a_wrong_field():
    claim = copy.deepcopy(manifest("storage.yaml"))
    claim["spec"]["accessMode"] = claim["spec"].pop("accessModes")
    with pytest.raises(kubernetes_validate.ValidationError, match="accessMode"):
        assert_valid(claim)


def test_the_volume_is_a_valid_claim_that_many_nodes_may_write_to():
    claim = manifest("storage.yaml")
    assert_valid(claim)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_job_and_cluster_are_of_the_fields_that_kuberay_knows():
    assert (CLUSTER["apiVersion"], CLUSTER["kind"]) == (JOB["apiVersion"], "RayCluster") == ("ray.io/v1", "RayCluster")
    assert_fields(JOB["spec"], JOB_FIELDS)
    for spec in SPECS.values():
        assert_fields(spec, CLUSTER_FIELDS)
        assert_fields(spec["headGroupSpec"], GROUP_FIELDS)
        for group in spec["workerGroupSpecs"]:
            assert_fields(group, WORKER_FIELDS)
        for group in groups(spec).values():
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert set(spec["autoscalerOptions"]) == {"version", "idleTimeoutSeconds", "resources"}


def kuberay_faults(custom_object: dict) -> list[str]:
    """What the published definition of its kind finds; a field it does not know too, which a cluster would drop."""
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's ray.io_*.yaml (this file's first lines)")
    schema = kuberay_schema(Path(folder) / f"ray.io_{custom_object['kind'].lower()}s.yaml", custom_object["apiVersion"])
    return [error.message for error in Draft202012Validator(schema).iter_errors(custom_object)]


@cache
def kuberay_schema(file: Path, api_version: str) -> dict:
    definition = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)  # a megabyte
    versions = {f"ray.io/{version['name']}": version for version in definition["spec"]["versions"]}
    return closed(versions[api_version]["schema"]["openAPIV3Schema"])


def closed(schema: dict) -> dict:
    """A structural schema that allows no field but those it names, where it names any."""
    parts = {key: closed(schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)}
    if fields := schema.get("properties"):
        parts["properties"] = {name: closed(field) for name, field in fields.items()}
        parts["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    return {**schema, **parts}


@pytest.mark.parametrize("custom_object", [CLUSTER, JOB], ids=["cluster", "job"])
def test_kuberays_published_definitions_accept_the_objects(custom_object):
    assert kuberay_faults(custom_object) == []


def test_kuberays_published_definitions_see_a_wrong_field_and_a_wrong_type():
    job = copy.deepcopy(JOB)
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 1
    job["spec"]["backoffLimit"] = "0"
    faults = kuberay_faults(job)
    assert len(faults) == 2
    assert any("'replica'" in fault for fault in faults)


def test_a_job_of_its_own_runs_on_the_cluster_that_stays():
    assert SPECS["RayJob"] == SPECS["RayCluster"]


@pytest.mark.parametrize("group", ["head", "learner", "rollout"])
def test_each_pod_is_valid_has_no_rights_and_sees_the_shared_volume(group):
    template = groups(CLUSTER["spec"])[group]["template"]
    assert_valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group}, "spec": template["spec"]})
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert template["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    (container,) = template["spec"]["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert set(container["resources"]) == {"requests", "limits"}
    (volume,) = template["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == manifest("storage.yaml")["metadata"]["name"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]


def test_the_token_is_a_secret_that_no_file_holds():
    for spec in SPECS.values():
        assert spec["authOptions"] == {"mode": "token", "secretName": "unisd-rl-token"}
    kinds = {
        document["kind"] for file in KUBERNETES.rglob("*.yaml") for document in yaml.safe_load_all(file.read_text())
    }
    assert "Secret" not in kinds


def test_the_operator_that_is_asked_for_knows_the_secrets_name():
    """`authOptions.secretName` came with KubeRay 1.6; an older one takes a token that it makes itself."""
    files = [DEPLOY / "README.md", KUBERNETES / "job/rayjob.yaml", KUBERNETES / "cluster/raycluster.yaml"]
    said = [re.findall(r"KubeRay\s+(?:#\s+)?operator,? (\d+\.\d+) or newer", file.read_text()) for file in files]
    assert said == [["1.6"]] * 3


def test_rays_autoscaler_scales_the_rollouts_and_leaves_the_learner_alone():
    cluster = copy.deepcopy(CLUSTER)
    cluster["metadata"]["namespace"] = "default"
    kinds = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    limits = {name: (kind["min_workers"], kind["max_workers"]) for name, kind in kinds.items() if name != "headgroup"}
    assert limits == {"learner": (1, 1), "rollout": (1, 8)}
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert kinds["learner"]["resources"]["learner"] == kinds["rollout"]["resources"]["rollout"] == 1
    assert not {"rollout"} & set(kinds["learner"]["resources"])
    assert not {"learner"} & set(kinds["rollout"]["resources"])


def test_the_job_asks_for_what_the_groups_offer_and_writes_to_the_volume():
    words = JOB["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "unisd_rl.run"]
    config = load_recipe(words[3:])
    assert str(config.run_dir).startswith("/shared/")
    assert set(config.rollout.resources) == {"rollout"}
    assert set(config.learner.resources) == {"learner"}


def test_a_failed_job_does_not_begin_anew_by_itself():
    assert JOB["spec"]["backoffLimit"] == 0


def test_a_stop_is_waited_for():
    (container,) = CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "900"} in container["env"]


def test_the_gpu_job_gives_learner_and_rollouts_a_gpu_each():
    overlay = manifest("job-gpu/kustomization.yaml")
    assert overlay["resources"] == ["../job"]
    job = copy.deepcopy(JOB)
    (patch,) = overlay["patches"]
    for change in yaml.safe_load(patch["patch"]):
        assert change["op"] == "replace"
        _replace(job, change["path"], change["value"])
    for group in ("learner", "rollout"):
        spec = groups(job["spec"]["rayClusterSpec"])[group]["template"]["spec"]
        assert_valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group}, "spec": spec})
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    if os.environ.get("KUBERAY_CRDS"):
        assert kuberay_faults(job) == []
    config = load_recipe(job["spec"]["entrypoint"].split()[3:])
    assert config.rollout.gpus_per_actor == config.learner.gpus_per_rank == 1


@pytest.mark.parametrize("folder", ["job", "job-gpu", "cluster"])
def test_kubectl_puts_the_manifests_together(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("this machine has no kubectl")
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    tag = "gpu" if folder == "job-gpu" else "cpu"
    assert done.stdout.count(f"image: unisd-rl:{tag}") == 3


def _replace(tree, path, value):
    *parents, last = path.strip("/").split("/")
    for key in parents:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    assert last in tree
    tree[last] = value
