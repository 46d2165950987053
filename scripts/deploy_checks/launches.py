"""What rents machines or is built by others: SkyPilot's files, CloudFormation's template, Cog's package."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy_checks import RefusedError, refuse_unless
from deploy_checks.kubernetes import read

COG_KEYS = {"build", "image", "run"}
COG_BUILD_KEYS = {"cuda", "gpu", "python_requirements", "python_version", "run", "sdk_version", "system_packages"}
"""Of cog.yaml, from its reference (docs/yaml.md of github.com/replicate/cog), without those that are deprecated."""


def check_skypilot(root: Path) -> Iterator[str]:
    """By SkyPilot's own parser."""
    import sky

    for path in sorted((root / "deploy" / "skypilot").glob("*.yaml")):
        name = path.relative_to(root).as_posix()
        try:
            task = sky.Task.from_yaml(str(path))
        except Exception as error:  # it raises anything
            raise RefusedError(f"{name}: {' '.join(str(error).split())[:500]}") from None
        refuse_unless(task.run and task.resources, f"{name} has no command or no resources")
        service = ", a service" if task.service is not None else ""
        yield f"{name}: {len(task.resources)} kinds of machine{service}"


def check_cloudformation(root: Path) -> Iterator[str]:
    """By cfn-lint, which carries AWS's schemas of resources."""
    for path in sorted((root / "deploy" / "aws").glob("*.yaml")):
        name = path.relative_to(root).as_posix()
        lint = Path(sys.executable).with_name("cfn-lint")
        done = subprocess.run([lint, "--format", "parseable", str(path)], capture_output=True, text=True, check=False)
        refuse_unless(done.returncode == 0, f"{name}: {' '.join((done.stdout + done.stderr).split())[:500]}")
        yield f"{name}: {path.read_text('utf-8').count('    Type: AWS::')} resources"


def check_cog(root: Path) -> Iterator[str]:
    """cog.yaml: known keys, files that are there, and a runner of that name. tests/deploy runs it."""
    folder = root / "deploy" / "cog"
    name = "deploy/cog/cog.yaml"
    [content] = read((folder / "cog.yaml").read_text("utf-8"), name)
    unknown = (content.keys() - COG_KEYS) | (content.get("build", {}).keys() - COG_BUILD_KEYS)
    refuse_unless(not unknown, f"{name}: Cog has no key {sorted(unknown)}")
    requirements = folder / content["build"]["python_requirements"]
    refuse_unless(requirements.is_file(), f"{name}: {requirements.name} is not there")
    file, _, class_name = content["run"].partition(":")
    refuse_unless((folder / file).is_file(), f"{name}: {file} is not there")
    classes = [node for node in ast.parse((folder / file).read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    runner = next((node for node in classes if node.name == class_name), None)
    bases = {ast.unparse(base) for base in runner.bases} if runner is not None else set()
    refuse_unless(bases & {"BaseRunner", "cog.BaseRunner"}, f"{name}: {file} has no runner {class_name}")
    for script in ("download-weights", "save-weights"):
        path = folder / "scripts" / script
        refuse_unless(path.is_file() and os.access(path, os.X_OK), f"{name}: scripts/{script} cannot be run")
    yield f"{name}: {content['run']}"
