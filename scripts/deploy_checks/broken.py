"""Ways to break the deployment files, each of which the checks must see: what a check lets through is not checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deploy_checks import Check, RefusedError
from deploy_checks.images import check_compose, check_docker
from deploy_checks.kubernetes import check_kubernetes
from deploy_checks.launches import check_cloudformation, check_cog, check_skypilot


class Broken(NamedTuple):
    """`old` of a file in deploy/ replaced by `new`, and a part of the line that must come."""

    check: Check
    file: str
    old: str
    new: str
    says: str


K8S = "kubernetes/base/"
KEDA = "kubernetes/components/keda/scaled-object.yaml"
FILES_ALONE = (
    Broken(check_kubernetes, K8S + "api.yaml", "periodSeconds: 5", "periodSecond: 5", "periodSecond"),
    Broken(check_kubernetes, K8S + "api.yaml", "replicas: 2", 'replicas: "two"', "two"),
    Broken(check_kubernetes, K8S + "api.yaml", "replicas: 2", "replicas: 2\n  replicas: 3", "replicas"),
    Broken(check_kubernetes, K8S + "worker.yaml", "terminationGracePeriodSeconds: 90", "", "killed after 30 s"),
    Broken(check_kubernetes, K8S + "worker.yaml", '"60"', '"300"', "killed after 90 s"),
    Broken(check_kubernetes, K8S + "api.yaml", "preStop:", "postStart:", "after SIGTERM"),
    Broken(check_kubernetes, K8S + "worker.yaml", "laur:cpu", "laur:latest", "no version"),
    Broken(
        check_kubernetes, K8S + "worker.yaml", "readOnlyRootFilesystem: true", "privileged: true", "root file system"
    ),
    Broken(check_kubernetes, K8S + "redis.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "as root"),
    Broken(check_kubernetes, K8S + "worker.yaml", "readinessProbe:", "redinessProbe:", "redinessProbe"),
    Broken(check_kubernetes, KEDA, "pollingInterval: 5", "pollInterval: 5", "pollInterval"),
    Broken(check_kubernetes, KEDA, "maxReplicaCount: 8", "maxReplicaCount: many", "maxReplicaCount"),
    Broken(check_kubernetes, KEDA, "kind: TriggerAuthentication", "kind: TriggerAuth", "no such kind"),
)
"""These are seen without kubectl too."""
TOGETHER = (
    Broken(
        check_kubernetes, K8S + "worker.yaml", "claimName: laur-results", "claimName: results", "results, which is not"
    ),
    Broken(
        check_kubernetes, K8S + "worker.yaml", "name: laur-redis, key: url", "name: redis, key: url", "Secret redis"
    ),
    Broken(check_kubernetes, K8S + "api.yaml", "targetPort: http", "targetPort: web", "web is no port"),
    Broken(check_kubernetes, K8S + "network.yaml", "component: redis", "component: cache", "chooses no Pods"),
    Broken(check_kubernetes, K8S + "network.yaml", "port: redis", "port: queue", "no ports here"),
    Broken(check_kubernetes, K8S + "kustomization.yaml", "- redis.yaml", "- rediss.yaml", "kustomize"),
    Broken(check_kubernetes, KEDA, "minReplicaCount: 0", "minReplicaCount: 1", "never scales to zero"),
    Broken(check_kubernetes, KEDA, "laur-redis.laur.svc", "laur-redis.default.svc", "namespace default"),
    Broken(check_kubernetes, KEDA, ":6379", ":6380", "port 6380"),
    Broken(
        check_kubernetes, KEDA, "streamLength:", "consumerGroup: workers\n        streamLength:", "being drawn only"
    ),
    Broken(check_kubernetes, "kubernetes/overlays/cpu/kustomization.yaml", "namespace: laur", "", "several namespaces"),
    Broken(check_kubernetes, "kubernetes/overlays/gpu/worker.yaml", "nvidia.com/gpu: 1", "nvidia.com/gpu: [1]", "gpu"),
)
OTHERS = (
    Broken(check_docker, "docker/Dockerfile", "USER 10001:10001", "USER laur", "hadolint"),
    Broken(check_docker, "docker/Dockerfile", "FROM python:${PYTHON}-slim-bookworm", "FROM python", "DL3006"),
    Broken(check_docker, "docker/Dockerfile", "COPY src src", "COPY source src", "not there"),
    Broken(check_docker, "docker/Dockerfile.dockerignore", "!src\n", "", "keeps back"),
    Broken(check_docker, "docker/Dockerfile", '"tini", "--", ', "", "tini"),
    Broken(check_compose, "docker/compose.yaml", "stop_grace_period: 75s", "stop_grace: 75s", "stop_grace"),
    Broken(check_compose, "docker/compose.yaml", "stop_grace_period: 75s", "stop_grace_period: 20s", "killed after 20"),
    Broken(check_compose, "docker/compose.yaml", "noeviction]", "allkeys-lru]", "forgets jobs"),
    Broken(check_compose, "docker/compose.yaml", "- home:/srv/laur", "- hoem:/srv/laur", "no volume"),
    Broken(check_cloudformation, "aws/laur.yaml", "CapacityType: SPOT", "CapacityType: SPOTTED", "SPOTTED"),
    Broken(check_cloudformation, "aws/laur.yaml", "!GetAtt NodeRole.Arn", "!GetAtt Node.Arn", "Node"),
    Broken(check_skypilot, "skypilot/serve.yaml", "min_replicas: 1", "least_replicas: 1", "min_replicas"),
    Broken(check_cog, "cog/cog.yaml", "runner.py:Runner", "runner.py:Predictor", "no runner Predictor"),
    Broken(check_cog, "cog/cog.yaml", "python_version", "pyhton_version", "pyhton_version"),
)


def check_refusals(root: Path, *, built: bool) -> Iterator[str]:
    """Raises RefusedError where a broken file is let through. `built`: whether overlays can be built here."""
    everything = [*FILES_ALONE, *(TOGETHER if built else ()), *OTHERS]
    for broken in everything:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder).resolve()
            _copy(root, copy)
            _break(copy, broken)
            said = _refusal(broken.check, copy)
        if said is None or broken.says not in said:
            change = f"{broken.file} with {broken.new[:60]!r} for {broken.old[:60]!r}"
            raise RefusedError(f"{change} should be refused for {broken.says!r}; what came was: {said}")
    yield f"{len(everything)} broken files are refused, each for its reason"


def _copy(root: Path, copy: Path) -> None:
    """deploy/ itself, and empty files where others only have to be there."""
    ignored = shutil.ignore_patterns("cache", "weights", "dist", "__pycache__")
    shutil.copytree(root / "deploy", copy / "deploy", ignore=ignored)
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "ATTRIBUTION.md"):
        (copy / name).touch()
    (copy / "src").mkdir()


def _break(copy: Path, broken: Broken) -> None:
    path = copy / "deploy" / broken.file
    text = path.read_text("utf-8")
    if broken.old not in text:
        raise RefusedError(f"{broken.file} does not hold {broken.old!r}, which is to be broken")
    path.write_text(text.replace(broken.old, broken.new), "utf-8")


def _refusal(check: Check, copy: Path) -> str | None:
    try:
        list(check(copy))
    except RefusedError as error:
        return str(error)
    return None
