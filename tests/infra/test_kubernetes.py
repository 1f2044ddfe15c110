"""The manifests of infra/kubernetes, as kustomize composes them, and what they name."""

import json
import re
import shutil
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines.run.config import load_config
from tests.infra.commands import INFRA, ROOT, blocks, expand, on_a_run, parse
from tests.infra.kustomize import as_text, compose

KUBERNETES = "1.37"
OVERLAYS = ["gpu", "small-cpu"]
(RAY_VERSION,) = re.findall(r"^ray==(.*)$", (ROOT / "requirements.lock").read_text(), re.M)
DOCUMENT = (ROOT / "docs/cluster.md").read_text()
SPOT_LABELS = {
    *("cloud.google.com/gke-spot", "karpenter.sh/capacity-type"),
    *("eks.amazonaws.com/capacityType", "kubernetes.azure.com/scalesetpriority"),
}


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request):
    return compose(INFRA / "kubernetes" / request.param)


def of_kind(overlay, kind):
    return {m["metadata"]["name"]: m for m in overlay if m["kind"] == kind}


def ray_job(overlay):
    return of_kind(overlay, "RayJob")["nightly-template"]["spec"]


def nightly_pod(overlay):
    return of_kind(overlay, "CronJob")["nightly"]["spec"]["jobTemplate"]["spec"]["template"]


def groups(overlay):
    return {
        group["groupName"]: group
        for group in ray_job(overlay)["rayClusterSpec"]["workerGroupSpecs"]
    }


def pod_templates(overlay):
    """By what runs in them: nightly, head, and the groups of workers."""
    head = ray_job(overlay)["rayClusterSpec"]["headGroupSpec"]["template"]
    workers = {name: group["template"] for name, group in groups(overlay).items()}
    return {"nightly": nightly_pod(overlay), "head": head, **workers}


def containers(overlay):
    for template in pod_templates(overlay).values():
        yield from template["spec"]["containers"]


def found(node, key):
    """All that stands under a key, at any depth."""
    if isinstance(node, list):
        return [value for item in node for value in found(item, key)]
    if not isinstance(node, dict):
        return []
    here = [node[key]] if key in node else []
    return here + [value for item in node.values() for value in found(item, key)]


def closed(schema):
    """A schema of Kubernetes', which drops fields that it does not know, that refuses them."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    return result


@pytest.fixture(scope="module")
def ray_job_schema():
    return closed(json.loads((ROOT / "tests/infra/kuberay/rayjob.json").read_text()))


def test_every_manifest_has_the_form_that_its_kind_asks_for(overlay, ray_job_schema):
    for manifest in overlay:
        if manifest["kind"] == "RayJob":
            # Its metadata are Kubernetes' own.
            jsonschema.validate({**manifest, "metadata": {}}, ray_job_schema)
        else:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_every_pod_template_is_one(overlay):
    for name, template in pod_templates(overlay).items():
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        kubernetes_validate.validate({**whole, "template": template}, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_is_composed_as_kustomize_does(name):
    if kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    elif kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")
    folder = INFRA / "kubernetes" / name
    text = subprocess.run([*command, folder], check=True, capture_output=True, text=True).stdout
    assert as_text(yaml.safe_load_all(text)) == as_text(compose(folder))


def test_every_file_of_the_folders_is_used():
    for folder in (INFRA / "kubernetes").iterdir():
        text = (folder / "kustomization.yaml").read_text()
        for file in folder.iterdir():
            assert file.name == "kustomization.yaml" or file.name in text, file


def secrets_to_create():
    """Names and keys of the Secrets that docs/cluster.md has people create."""
    lines = [words for words in blocks(DOCUMENT) if {"secret", "generic"} <= set(words)]
    return {
        words[words.index("generic") + 1]: {
            word.split("=")[1] for word in words if word.startswith("--from-literal=")
        }
        for words in lines
    }


def test_every_secret_that_is_named_is_created_as_the_page_says(overlay):
    secrets = secrets_to_create()
    for reference in found(overlay, "secretKeyRef"):
        assert reference["key"] in secrets[reference["name"]]
    (name,) = found(overlay, "secretName")
    assert secrets[name] == {"auth_token"}  # the key that KubeRay asks for
    used = {reference["name"] for reference in found(overlay, "secretKeyRef")} | {name}
    assert used == set(secrets)
    assert not of_kind(overlay, "Secret")  # nor does a value of one stand anywhere
    assert not found(overlay, "secretRef")


def test_every_other_thing_that_is_named_is_there(overlay):
    maps, named = of_kind(overlay, "ConfigMap"), set()
    for key in ("configMap", "configMapRef"):
        named |= {reference["name"] for reference in found(overlay, key)}
    assert named == set(maps)
    assert set(found(overlay, "serviceAccountName")) == set(of_kind(overlay, "ServiceAccount"))
    assert set(found(overlay, "priorityClassName")) == set(of_kind(overlay, "PriorityClass"))
    (binding,) = of_kind(overlay, "RoleBinding").values()
    assert binding["roleRef"]["name"] in of_kind(overlay, "Role")
    assert {s["name"] for s in binding["subjects"]} == set(of_kind(overlay, "ServiceAccount"))
    namespaces = {m["metadata"].get("namespace", "clip") for m in overlay}
    assert namespaces == set(of_kind(overlay, "Namespace"))
    for words in blocks(DOCUMENT):
        if words[0] == "kubectl" and "--namespace" in words:
            assert words[words.index("--namespace") + 1] in namespaces


def mounted(template, maps):
    """The paths of the files of ConfigMaps in a pod."""
    spec = template["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for container in spec["containers"]:
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            for key in maps[volume["configMap"]["name"]]["data"] if "configMap" in volume else []:
                yield f"{mount['mountPath']}/{key}"


def test_every_file_that_a_command_names_is_mounted(overlay):
    maps, pods = of_kind(overlay, "ConfigMap"), pod_templates(overlay)
    entrypoint = ray_job(overlay)["entrypoint"].split()
    (container,) = pods["nightly"]["spec"]["containers"]
    for words, pod in ((entrypoint, "head"), (container["command"], "nightly")):
        files = {word for word in words if word.startswith("/")}
        assert files == set(mounted(pods[pod], maps))
    for template in pods.values():
        list(mounted(template, maps))  # every mount is of a volume


def test_the_entrypoint_is_a_command_with_a_configuration_that_it_takes(overlay):
    job = ray_job(overlay)
    (source,) = found(job["rayClusterSpec"]["headGroupSpec"], "configMapRef")
    environment = of_kind(overlay, "ConfigMap")[source["name"]]["data"]
    words = expand(job["entrypoint"], environment)
    parse(words)
    arguments = on_a_run(words)
    assert str(arguments.config) == "/etc/clip/run.yaml"
    assert arguments.run_dir == "s3://example-bucket/nightly"
    config = load_config(INFRA / "kubernetes/base/run.yaml", arguments.overrides)
    assert config.ray.address == "auto"
    gpus, actors = config.ray.gpus_per_actor, config.ray.actors
    kind = groups(overlay)["gpu" if gpus else "cpu"]
    assert kind["maxReplicas"] == actors
    (worker,) = kind["template"]["spec"]["containers"]
    assert worker["resources"]["limits"].get("nvidia.com/gpu", 0) >= gpus


def test_the_command_of_the_nightly_pod_is_one(overlay):
    (container,) = nightly_pod(overlay)["spec"]["containers"]
    names = {variable["name"] for variable in container["env"]}
    line = re.sub(r"\$\((\w+)\)", r"$\1", " ".join(container["command"]))
    options = parse(expand(line, dict.fromkeys(names, "a-value")))
    assert options.template in of_kind(overlay, "RayJob")
    assert set(re.findall(r"\$(\w+)", line)) == names


def test_the_image_is_that_of_the_container_file(overlay):
    images = {container["image"] for container in containers(overlay)}
    (built,) = [words for words in blocks(DOCUMENT) if words[:2] == ["docker", "build"]]
    assert images == {built[built.index("--tag") + 1]}
    file = (ROOT / built[built.index("--file") + 1]).read_text()
    (user,) = re.findall(r"^USER (\d+):\d+$", file, re.M)
    assert set(found(overlay, "runAsUser")) == set(found(overlay, "runAsGroup")) == {int(user)}


def test_no_container_may_more_than_it_needs(overlay):
    for container in containers(overlay):
        context, resources = container["securityContext"], container["resources"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(resources["limits"])
        assert set(resources["limits"]) == set(resources["requests"])
    for group in groups(overlay).values():
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_cluster_begins_with_a_head_that_does_no_task_and_grows_from_nothing(overlay):
    cluster = ray_job(overlay)["rayClusterSpec"]
    assert cluster["rayVersion"] == RAY_VERSION
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for template in pod_templates(overlay).values():
        assert (
            template["spec"]["restartPolicy"] == "Never"
        )  # the autoscaler v2 replaces pods itself
    for group in groups(overlay).values():
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]


def test_workers_may_be_spot_machines_and_the_head_is_none(overlay):
    pods = pod_templates(overlay)
    head = found(pods["head"], "requiredDuringSchedulingIgnoredDuringExecution")
    assert {e["key"] for e in found(head, "matchExpressions")[0]} == SPOT_LABELS
    assert {e["operator"] for e in found(head, "matchExpressions")[0]} == {"NotIn"}
    assert not found(pods["head"], "tolerations")
    for name in groups(overlay):
        preferred = found(pods[name], "matchExpressions")
        assert {e["key"] for some in preferred for e in some} == SPOT_LABELS
        (tolerations,) = found(pods[name], "tolerations")
        keys = {toleration["key"] for toleration in tolerations}
        assert {key for key in SPOT_LABELS if "azure" in key or "google" in key} < keys
        assert ("nvidia.com/gpu" in keys) == (name == "gpu")


def test_a_night_ends_and_leaves_nothing(overlay):
    job, cron = ray_job(overlay), of_kind(overlay, "CronJob")["nightly"]
    assert job["suspend"] is True  # a template
    assert job["shutdownAfterJobFinishes"] is True
    attempts = job["backoffLimit"] + 1
    deadline = cron["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert attempts * (job["activeDeadlineSeconds"] + 60) < deadline < 24 * 3600
    assert job["preRunningDeadlineSeconds"] < job["activeDeadlineSeconds"]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert cron["spec"]["startingDeadlineSeconds"] > 0
    assert {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} < set(cron["spec"])
    # A CronJob's Job has the minute behind its name, and KubeRay takes names of 47 characters.
    assert len(cron["metadata"]["name"]) + len("-29381640") <= 47


def test_an_exit_code_is_final_and_a_disruption_is_not(overlay):
    job = of_kind(overlay, "CronJob")["nightly"]["spec"]["jobTemplate"]["spec"]
    ignored, failed = job["podFailurePolicy"]["rules"]
    assert (ignored["action"], failed["action"]) == ("Ignore", "FailJob")
    (container,) = job["template"]["spec"]["containers"]
    assert failed["onExitCodes"]["containerName"] == container["name"]


def matches(selector, labels):
    expressions = selector.get("matchExpressions", [])
    assert {expression["operator"] for expression in expressions} <= {"In"}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def policies(overlay):
    return {name: m["spec"] for name, m in of_kind(overlay, "NetworkPolicy").items()}


def selected(overlay, selector):
    labels = {name: t["metadata"]["labels"] for name, t in pod_templates(overlay).items()}
    return {name for name, own in labels.items() if matches(selector, own)}


def test_network_policies_are_about_the_pods_that_there_are(overlay):
    whom = {name: selected(overlay, p["podSelector"]) for name, p in policies(overlay).items()}
    ray = {"head", *groups(overlay)}
    assert whom == {
        "nothing-gets-in": {"nightly", *ray},
        "ray": ray,
        "api-server": {"head", "nightly"},
    }
    assert {frozenset(p["policyTypes"]) for p in policies(overlay).values()} == {
        frozenset({"Ingress"}),
        frozenset({"Ingress", "Egress"}),
        frozenset({"Egress"}),
    }
    first = policies(overlay)["ray"]["ingress"][0]
    assert selected(overlay, first["from"][0]["podSelector"]) == ray


def test_what_may_get_in_gets_to_a_port_that_is_open(overlay):
    doors = {
        port["port"]
        for rule in policies(overlay)["ray"]["ingress"]
        for port in rule.get("ports", [])
    }
    open_ports = {port["containerPort"] for c in containers(overlay) for port in c.get("ports", [])}
    assert doors <= open_ports
    assert doors == {8265, 8080}
