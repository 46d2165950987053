"""What no schema knows of our Kubernetes resources: that they fit together, are safe by default, and drain in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from deploy_checks import refuse_unless

Resource = dict[str, Any]
CLOSE = 10
"""Seconds that a process needs after its grace."""
OUTSIDE = {("Secret", "laur-keys"), ("Secret", "laur-redis")}
"""What the operator makes."""
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def check_cluster(resources: Sequence[Resource], name: str) -> None:
    """All rules over all resources of one overlay. Raises RefusedError."""
    for resource in resources:
        check_workload(resource, name)
    _check_references(resources, name)
    _check_selectors(resources, name)
    _check_scaling(resources, name)
    spaces = {resource["metadata"].get("namespace") for resource in resources if resource["kind"] != "Namespace"}
    refuse_unless(len(spaces) == 1, f"{name}: resources lie in several namespaces: {spaces}")


def check_workload(resource: Resource, name: str) -> None:
    """A Deployment or StatefulSet for itself: the restricted Pod security standard, probes, limits, time to drain."""
    if resource["kind"] not in {"Deployment", "StatefulSet"}:
        return
    pod = resource["spec"]["template"]["spec"]
    what = f"{name}: {resource['metadata']['name']}"
    security = pod.get("securityContext", {})
    refuse_unless(security.get("runAsNonRoot") is True, f"{what} may run as root")
    refuse_unless(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{what} has no seccomp profile")
    refuse_unless(pod.get("automountServiceAccountToken") is False, f"{what} is given the cluster's token")
    for container in pod["containers"]:
        _check_container(container, pod, f"{what}/{container['name']}")


def _check_container(container: Resource, pod: Resource, what: str) -> None:
    security = container.get("securityContext", {})
    refuse_unless(security.get("allowPrivilegeEscalation") is False, f"{what} may gain privileges")
    refuse_unless(security.get("readOnlyRootFilesystem") is True, f"{what} has a root file system that can be written")
    refuse_unless(security.get("capabilities", {}).get("drop") == ["ALL"], f"{what} keeps capabilities")
    _, colon, tag = container["image"].rpartition(":")
    refuse_unless(colon and tag not in {"", "latest"} and "/" not in tag, f"{what}: its image has no version")
    for probe in PROBES:
        refuse_unless(probe in container, f"{what} has no {probe}")
    resources = container.get("resources", {})
    refuse_unless(resources.get("requests", {}).keys() >= {"cpu", "memory"}, f"{what} asks for no cpu or memory")
    refuse_unless("memory" in resources.get("limits", {}), f"{what} has no limit of memory")
    ports = {port.get("name") for port in container.get("ports", [])}
    for probe in PROBES:
        port = container[probe].get("httpGet", {}).get("port")
        refuse_unless(port is None or port in ports, f"{what}: {probe} asks at {port}, which is no port of it")
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | {"data"}  # data: of the StatefulSet's claim
    for mount in container.get("volumeMounts", []):
        refuse_unless(mount["name"] in volumes, f"{what} mounts {mount['name']}, which is no volume")
    _check_drain(container, pod, what)


def _check_drain(container: Resource, pod: Resource, what: str) -> None:
    arguments = container.get("args", [])
    if not arguments or arguments[0] not in {"serve", "worker"}:
        return
    refuse_unless("--grace" in arguments, f"{what} leaves --grace open")
    grace = float(arguments[arguments.index("--grace") + 1])
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    refuse_unless(before or arguments[0] == "worker", f"{what} gets requests after SIGTERM: it has no preStop")
    given = pod.get("terminationGracePeriodSeconds", 30)
    refuse_unless(
        given >= before + grace + CLOSE,
        f"{what} is killed after {given} s, but needs {before} + {grace:.0f} + {CLOSE}: preStop, --grace, closing",
    )


def _check_references(resources: Sequence[Resource], name: str) -> None:
    there = {(resource["kind"], resource["metadata"]["name"]) for resource in resources} | OUTSIDE
    for resource in resources:
        for kind, wanted in _references(resource):
            what = f"{name}: {resource['metadata']['name']}"
            refuse_unless((kind, wanted) in there, f"{what} names {kind} {wanted}, which is not there")


def _references(resource: Resource) -> Iterator[tuple[str, str]]:
    spec = resource.get("spec", {})
    if resource["kind"] == "ScaledObject":
        yield spec["scaleTargetRef"].get("kind", "Deployment"), spec["scaleTargetRef"]["name"]
        for trigger in spec["triggers"]:
            if "authenticationRef" in trigger:
                yield "TriggerAuthentication", trigger["authenticationRef"]["name"]
    if resource["kind"] == "TriggerAuthentication":
        for secret in spec.get("secretTargetRef", []):
            yield "Secret", secret["name"]
    if resource["kind"] == "StatefulSet":
        yield "Service", spec["serviceName"]
    if resource["kind"] in {"Deployment", "StatefulSet"}:
        yield from _references_of_pod(spec["template"]["spec"])


def _references_of_pod(pod: Resource) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    for container in pod.get("containers", []):
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]


def _check_selectors(resources: Sequence[Resource], name: str) -> None:
    """What a Service, budget or policy chooses is there, and a workload chooses its own Pods."""
    pods = [resource["spec"]["template"] for resource in resources if resource["kind"] in {"Deployment", "StatefulSet"}]
    for resource in resources:
        spec, what = resource.get("spec", {}), f"{name}: {resource['kind']} {resource['metadata']['name']}"
        match resource["kind"]:
            case "Deployment" | "StatefulSet":
                own = [resource["spec"]["template"]]
                refuse_unless(_chosen(spec["selector"], own), f"{what} does not choose its own Pods")
                refuse_unless(len(_chosen(spec["selector"], pods)) == 1, f"{what} chooses another's Pods")
            case "PodDisruptionBudget":
                refuse_unless(len(_chosen(spec["selector"], pods)) == 1, f"{what} chooses no Pods, or several kinds")
            case "NetworkPolicy":
                refuse_unless(_chosen(spec["podSelector"], pods), f"{what} chooses no Pods")
                for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
                    _check_rule(rule, pods, what)
            case "Service":
                chosen = _chosen({"matchLabels": spec["selector"]}, pods)
                refuse_unless(chosen, f"{what} chooses no Pods")
                ports = _ports(chosen)
                for port in spec["ports"]:
                    refuse_unless(port["targetPort"] in ports, f"{what}: {port['targetPort']} is no port of its Pods")
            case _:
                pass


def _check_rule(rule: Resource, pods: Sequence[Resource], what: str) -> None:
    for peer in [*rule.get("from", []), *rule.get("to", [])]:
        if "podSelector" in peer and "namespaceSelector" not in peer:
            refuse_unless(_chosen(peer["podSelector"], pods), f"{what} lets in or out Pods that are not there")
    named = {port["port"] for port in rule.get("ports", []) if isinstance(port.get("port"), str)}
    refuse_unless(named <= _ports(pods), f"{what}: {sorted(named)} are no ports here")


def _chosen(selector: Resource, pods: Sequence[Resource]) -> list[Resource]:
    wanted = [(key, [value]) for key, value in selector.get("matchLabels", {}).items()]
    wanted += [(each["key"], each["values"]) for each in selector.get("matchExpressions", [])]
    return [pod for pod in pods if all(pod["metadata"]["labels"].get(key) in values for key, values in wanted)]


def _ports(pods: Sequence[Resource]) -> set[str]:
    containers = [container for pod in pods for container in pod["spec"]["containers"]]
    return {port["name"] for container in containers for port in container.get("ports", [])}


def _check_scaling(resources: Sequence[Resource], name: str) -> None:
    """KEDA owns the number of workers, may reach Redis, and asks where it is."""
    spaces = [resource["metadata"]["name"] for resource in resources if resource["kind"] == "Namespace"]
    for scaled in (resource for resource in resources if resource["kind"] == "ScaledObject"):
        target = scaled["spec"]["scaleTargetRef"]["name"]
        workload = next(one for one in resources if (one["kind"], one["metadata"]["name"]) == ("Deployment", target))
        refuse_unless("replicas" not in workload["spec"], f"{name}: {target} has replicas, which KEDA sets")
        refuse_unless(scaled["spec"].get("minReplicaCount") == 0, f"{name}: {target} never scales to zero")
        for trigger in scaled["spec"]["triggers"]:
            data = trigger["metadata"]
            host, _, port = data["address"].rpartition(":")
            service, _, rest = host.partition(".")
            found = next(
                (one for one in resources if (one["kind"], one["metadata"]["name"]) == ("Service", service)), None
            )
            refuse_unless(found is not None, f"{name}: KEDA asks at {service}, which is no Service")
            assert found is not None
            refuse_unless(rest.partition(".")[0] in spaces, f"{name}: KEDA asks in namespace {rest.partition('.')[0]}")
            ports = {str(each["port"]) for each in found["spec"]["ports"]}
            refuse_unless(port in ports, f"{name}: KEDA asks at port {port} of {service}")
            refuse_unless(
                "consumerGroup" not in data, f"{name}: with a consumerGroup KEDA counts what is being drawn only"
            )
