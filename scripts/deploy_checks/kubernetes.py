"""Kubernetes: every overlay built by kubectl, every resource by its schema, and then our rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy_checks import RefusedError, refuse_unless
from deploy_checks.cluster_rules import check_cluster, check_workload

VERSION = "1.37"
"""Of Kubernetes. Everything used here is there from 1.30 on (`sleep` in preStop)."""
LEAST_KUSTOMIZE = (4, 1)
"""The first that knows components as they are used here."""
Resource = dict[str, Any]


def check_kubernetes(root: Path) -> Iterator[str]:
    """All overlays; without a kubectl that can build them, the base's files one by one."""
    folder = root / "deploy" / "kubernetes"
    kubectl = find_kubectl()
    if kubectl is None:
        yield from _check_files(root, folder)
        yield "deploy/kubernetes: no kubectl with Kustomize 4.1 or later here: OVERLAYS WERE NOT BUILT"
        return
    overlays = sorted(path.parent for path in folder.glob("overlays/*/kustomization.yaml"))
    refuse_unless(overlays, "deploy/kubernetes has no overlays")
    for overlay in overlays:
        name = overlay.relative_to(root).as_posix()
        resources = build(kubectl, overlay)
        for resource in resources:
            check_schema(resource, name)
        check_cluster(resources, name)
        kinds = {str(resource["kind"]) for resource in resources}
        yield f"{name}: {len(resources)} resources of {len(kinds)} kinds"


def build(kubectl: str, overlay: Path) -> list[Resource]:
    """What Kustomize makes of an overlay. Raises RefusedError."""
    done = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    refuse_unless(done.returncode == 0, f"{overlay.name}: kustomize: {' '.join(done.stderr.split())[:500]}")
    return read(done.stdout, overlay.name)


def read(text: str, name: str) -> list[Resource]:
    """The resources of a stream of YAML documents; no key may stand twice. Raises RefusedError."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what the plain one passes over in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
            refuse_unless(len(keys) == len(set(keys)), f"{name}: a key stands twice, {node.start_mark}")
            return super().construct_mapping(node, deep)

    try:
        return [document for document in yaml.load_all(text, Loader) if document is not None]
    except yaml.YAMLError as error:
        raise RefusedError(f"{name}: {' '.join(str(error).split())[:500]}") from None


def check_schema(resource: Resource, name: str) -> None:
    """Kubernetes's own schemas, strictly; KEDA's by its models. Raises RefusedError."""
    import kubernetes_validate

    what = f"{name}: {resource.get('kind')} {resource.get('metadata', {}).get('name')}"
    if str(resource.get("apiVersion", "")).startswith("keda.sh/"):
        _check_keda(resource, what)
        return
    try:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        raise RefusedError(f"{what}: {path}: {str(error.message)[:300]}") from None
    except kubernetes_validate.SchemaNotFoundError as error:
        raise RefusedError(f"{what}: no schema: {error}") from None


def _check_keda(resource: Resource, what: str) -> None:
    """By KEDA's models of cloudcoil-models-keda, which are generated from its CRDs.

    They pass over keys that they do not know, so what they have understood is compared with what was written.
    """
    from cloudcoil.models.keda import v1alpha1
    from pydantic import ValidationError

    model = getattr(v1alpha1, str(resource.get("kind")), None)
    refuse_unless(model is not None, f"{what}: KEDA has no such kind")
    assert model is not None
    try:
        understood = model.model_validate(resource)
    except ValidationError as error:
        first = error.errors()[0]
        raise RefusedError(f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    dumped = json.loads(understood.model_dump_json(by_alias=True, exclude_unset=True))
    unknown = sorted(_paths(resource) - _paths(dumped))
    refuse_unless(not unknown, f"{what}: KEDA has no {unknown[0] if unknown else ''}")


def _paths(value: Any, at: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path for key, inner in value.items() for path in {f"{at}.{key}"} | _paths(inner, f"{at}.{key}")}
    if isinstance(value, list):
        return {path for number, inner in enumerate(value) for path in _paths(inner, f"{at}.{number}")}
    return set()


def _check_files(root: Path, folder: Path) -> Iterator[str]:
    """Without Kustomize: whole resources of the base and the components, each by its schema and its own rules."""
    for path in sorted([*folder.glob("base/*.yaml"), *folder.glob("components/*/*.yaml")]):
        if path.name in {"kustomization.yaml", "without-volume.yaml"}:
            continue
        name = path.relative_to(root).as_posix()
        resources = read(path.read_text("utf-8"), name)
        for resource in resources:
            check_schema(resource, name)
            check_workload(resource, name)
        yield f"{name}: {len(resources)} resources, as they stand"


def find_kubectl() -> str | None:
    """$KUBECTL, or that of the path, if it is there and new enough."""
    found = shutil.which(os.environ.get("KUBECTL", "kubectl"))
    if found is None:
        return None
    done = subprocess.run([found, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
    try:
        version = json.loads(done.stdout)["kustomizeVersion"]
        parts = tuple(int(part) for part in version.lstrip("v").split(".")[:2])
    except (ValueError, KeyError, TypeError):
        return None
    return found if parts >= LEAST_KUSTOMIZE else None
