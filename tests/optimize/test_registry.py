from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types

import pytest

from laur.core.errors import AdapterError, NotFoundError
from laur.optimize import BaseAdapter, Registry, adapters, get_adapter, register


class Plain(BaseAdapter):
    """Does nothing."""


class Other(BaseAdapter):
    """Does nothing either."""


@pytest.fixture
def registry() -> Registry:
    return Registry("laur.tests.none")


def entry_points(monkeypatch, module: types.ModuleType, *entries: tuple[str, str]) -> None:
    """Pretend that installed packages declare `entries` (name, value)."""
    monkeypatch.setitem(sys.modules, module.__name__, module)
    group = "laur.tests.group"
    points = [importlib.metadata.EntryPoint(name, value, group) for name, value in entries]

    def fake(**selection: str) -> importlib.metadata.EntryPoints:
        return importlib.metadata.EntryPoints(points).select(**selection)

    monkeypatch.setattr(importlib.metadata, "entry_points", fake)


def test_a_class_a_factory_and_an_instance_are_found_by_name(registry):
    assert registry.register("decorated")(Plain) is Plain
    registry.register("factory", Other)
    one = registry.register("instance", Other())
    assert type(registry.get("decorated")) is Plain
    assert registry.get("decorated") is not registry.get("decorated")
    assert type(registry.get("factory")) is Other
    assert registry.get("instance") is one
    assert [registry.get(name).name for name in registry.names()] == ["decorated", "factory", "instance"]
    assert "factory" in registry and "nothing" not in registry


def test_a_taken_name_is_refused(registry):
    registry.register("mine", Plain)
    with pytest.raises(AdapterError, match=r"'mine' is registered already, by .*Plain; choose another name"):
        registry.register("mine", Other)
    assert type(registry.get("mine")) is Plain


def test_a_notebook_may_define_its_class_again(registry):
    registry.register("mine", Plain)
    again = type("Plain", (BaseAdapter,), {"__module__": Plain.__module__})
    registry.register("mine", again)
    assert type(registry.get("mine")) is again


@pytest.mark.parametrize("name", ["", "two words", "a:0.5", "a/b", "a\\b"])
def test_names_that_a_command_line_could_not_write_are_refused(registry, name):
    with pytest.raises(AdapterError, match="one word without colon or slash"):
        registry.register(name, Plain)


def test_an_unknown_name_gets_the_nearest_or_all(registry):
    with pytest.raises(NotFoundError, match="none are"):
        registry.get("mirror")
    registry.register("mirror", Plain)
    with pytest.raises(NotFoundError, match=r"^no adapter is registered as 'miror'; did you mean mirror\?$"):
        registry.get("miror")
    with pytest.raises(NotFoundError, match="known are mirror"):
        registry.get("zzz")


def test_factories_that_fail_give_one_line(registry):
    registry.register("no-adapter", lambda: "text")
    registry.register("fails", lambda: 1 / 0)
    with pytest.raises(AdapterError, match="is no BaseAdapter but str"):
        registry.get("no-adapter")
    with pytest.raises(AdapterError, match="cannot be made: ZeroDivisionError: division by zero"):
        registry.get("fails")


def test_installed_packages_are_listed_unimported_and_loaded_when_asked(monkeypatch):
    module = types.ModuleType("laur_test_plugin")
    module.Plain = Plain
    entry_points(monkeypatch, module, ("plugin", "laur_test_plugin:Plain"), ("gone", "laur_no_such_module:X"))
    registry = Registry("laur.tests.group")
    assert registry.names() == ["gone", "plugin"]
    assert "plugin" in registry
    adapter = registry.get("plugin")
    assert type(adapter) is Plain and adapter.name == "plugin"
    with pytest.raises(AdapterError, match=r"'gone' \(laur_no_such_module:X\) cannot be imported: ModuleNotFoundError"):
        registry.get("gone")
    assert Registry("laur.tests.elsewhere").names() == []


def test_an_entry_point_may_name_a_module_that_registers(monkeypatch):
    registry = Registry("laur.tests.group")
    module = types.ModuleType("laur_test_plugin")
    entry_points(monkeypatch, module, ("plugin", "laur_test_plugin"))
    with pytest.raises(NotFoundError):
        registry.get("plugin")
    registry.register("plugin", Plain)
    assert type(registry.get("plugin")) is Plain


def test_two_packages_with_one_name_are_refused(monkeypatch):
    module = types.ModuleType("laur_test_plugin")
    entry_points(monkeypatch, module, ("plugin", "laur_test_plugin:A"), ("plugin", "laur_test_plugin:B"))
    with pytest.raises(AdapterError, match="provided by laur_test_plugin:A and by laur_test_plugin:B; uninstall one"):
        Registry("laur.tests.group").get("plugin")


def test_the_global_registry():
    @register("test-registry-adapter")
    class Mine(BaseAdapter):
        pass

    assert "test-registry-adapter" in adapters()
    assert isinstance(get_adapter("test-registry-adapter"), Mine)


def test_importing_the_registry_brings_no_torch():
    code = "import sys, laur.optimize, laur.optimize.catalogue as c; c.known(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
