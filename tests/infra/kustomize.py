"""The few features of kustomize that infra/kubernetes uses; it refuses all others.

Compared with the real one by ``test_kubernetes`` where that is installed.
"""

import json
from pathlib import Path

import yaml

CLUSTER_WIDE = {"Namespace", "PriorityClass"}
KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "configMapGenerator", "generatorOptions"),
    *("images", "patches"),
}


def compose(folder):
    """The manifests that ``kustomize build FOLDER`` prints, in some order."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= KNOWN, f"{folder}: {set(kustomization) - KNOWN}"
    manifests = []
    for name in kustomization["resources"]:
        manifests += read(folder / name)
    for generator in kustomization.get("configMapGenerator", []):
        assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}
        generate(manifests, generator, folder)
    for patch in kustomization.get("patches", []):
        (target,) = [
            manifest
            for manifest in manifests
            if (manifest["kind"], manifest["metadata"]["name"])
            == (patch["target"]["kind"], patch["target"]["name"])
        ]
        for operation in yaml.safe_load(patch["patch"]):
            apply(target, operation)
    for manifest in manifests:
        set_namespace(manifest, kustomization["namespace"])
        for image in kustomization.get("images", []):
            set_image(manifest, image)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(set(names)) == len(names)
    return manifests


def read(path):
    return compose(path.resolve()) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def generate(manifests, generator, folder):
    data = {Path(name).name: (folder / name).read_text() for name in generator.get("files", [])}
    lines = [*generator.get("literals", [])]
    for name in generator.get("envs", []):
        lines += (folder / name).read_text().splitlines()
    data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    if generator.get("behavior") == "merge":
        (old,) = [
            manifest
            for manifest in manifests
            if manifest["kind"] == "ConfigMap" and manifest["metadata"]["name"] == generator["name"]
        ]
        assert set(data) <= set(old["data"])
        old["data"] |= data
    else:
        assert "behavior" not in generator
        metadata = {"name": generator["name"]}
        manifests.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        )


def apply(manifest, operation):
    """One operation of a JSON patch, on what is there."""
    *parents, last = operation["path"].split("/")[1:]
    node = manifest
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    last = int(last) if isinstance(node, list) else last
    there = node[last]
    if operation["op"] == "remove":
        del node[last]
    elif operation["op"] == "replace":
        node[last] = operation["value"]
    else:
        assert operation["op"] == "test"
        assert there == operation["value"]


def set_namespace(manifest, namespace):
    if manifest["kind"] == "Namespace":
        manifest["metadata"]["name"] = namespace
    if manifest["kind"] not in CLUSTER_WIDE:
        manifest["metadata"]["namespace"] = namespace
    for subject in manifest.get("subjects", []):
        subject["namespace"] = namespace


def set_image(node, image):
    """Name and tag of every image of this name, at any depth."""
    if isinstance(node, list):
        for item in node:
            set_image(item, image)
    elif isinstance(node, dict):
        if node.get("image") == image["name"]:
            node["image"] = f"{image['newName']}:{image['newTag']}"
        for value in node.values():
            set_image(value, image)


def as_text(manifests):
    """Manifests to be compared, whatever their order."""
    return sorted(json.dumps(manifest, sort_keys=True) for manifest in manifests)
