"""ComfyUI's node contract without ComfyUI: what a node class must have, and a workflow in API format validated and executed."""

import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

WIDGETS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
"""Types whose values stand in a workflow; all others come over a link."""


def load_nodes(folder: Path) -> ModuleType:
    """A folder of custom nodes imported as ComfyUI does it: by its path, which is no module name."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def inputs_of(node: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {name: entry for kind in ("required", "optional") for name, entry in node.INPUT_TYPES().get(kind, {}).items()}


def check_node(node: Any) -> None:
    """What the documentation of custom nodes asks of a class."""
    kinds = node.INPUT_TYPES()
    assert "required" in kinds
    assert set(kinds) <= {"required", "optional", "hidden"}
    assert not set(kinds["required"]) & set(kinds.get("optional", {}))
    for name, (kind, options) in inputs_of(node).items():
        assert isinstance(kind, list) or kind.isupper(), name
        assert options["tooltip"].endswith("."), name
        if isinstance(kind, list):
            assert kind, name
            assert all(isinstance(one, str) for one in kind), name
        if "default" in options:
            assert not wrong_value(options["default"], kind, options), (name, options)
        else:
            assert isinstance(kind, list) or kind not in WIDGETS, f"{name} needs a default"
    assert isinstance(node.RETURN_TYPES, tuple)
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert isinstance(node.CATEGORY, str)
    assert node.DESCRIPTION
    parameters = dict(inspect.signature(getattr(node, node.FUNCTION)).parameters)
    parameters.pop("self")
    assert set(parameters) == set(inputs_of(node)), "inputs come by name"
    for name in kinds["required"]:
        assert parameters[name].default is inspect.Parameter.empty, name
    for name in kinds.get("optional", {}):
        assert parameters[name].default is not inspect.Parameter.empty, f"{name} may be left out"
    for hook in ("VALIDATE_INPUTS", "IS_CHANGED"):
        if (found := getattr(node, hook, None)) is not None:
            names = {name for name, one in inspect.signature(found).parameters.items() if one.kind is not one.VAR_KEYWORD}
            assert names <= set(inputs_of(node)), hook
            found()  # values that come over a link are left out


def wrong_value(value: Any, kind: Any, options: Mapping[str, Any]) -> str:
    """Why ComfyUI would refuse a value; empty if it would not."""
    if isinstance(kind, list):
        return "" if value in kind else f"{value!r} is not in {kind}"
    if kind not in WIDGETS or not isinstance(value, WIDGETS[kind]) or isinstance(value, bool) != (kind == "BOOLEAN"):
        return f"{value!r} is no {kind}"
    if "min" in options and value < options["min"]:
        return f"{value} is below {options['min']}"
    return f"{value} is above {options['max']}" if "max" in options and value > options["max"] else ""


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def faults(nodes: Mapping[str, Any], workflow: Mapping[str, Any]) -> list[str]:
    """What ComfyUI would refuse before anything runs."""
    found = []
    for place, one in workflow.items():
        if (node := nodes.get(one["class_type"])) is None:
            found.append(f"{place}: no node {one['class_type']}")
            continue
        inputs, constants = inputs_of(node), {}
        found += [f"{place}: {name} is missing" for name in node.INPUT_TYPES()["required"] if name not in one["inputs"]]
        hook = getattr(node, "VALIDATE_INPUTS", None)
        own = set(inspect.signature(hook).parameters) if hook else set()
        for name, value in one["inputs"].items():
            if name not in inputs:
                found.append(f"{place}: there is no input {name}")
            elif is_link(value):
                returned = nodes[workflow[value[0]]["class_type"]].RETURN_TYPES[value[1]]
                if inputs[name][0] not in (returned, "*"):
                    found.append(f"{place}: {name} is {inputs[name][0]}, the link brings {returned}")
            else:
                constants[name] = value
                if name not in own and (wrong := wrong_value(value, *inputs[name])):
                    found.append(f"{place}: {name}: {wrong}")
        if hook and (answer := hook(**{name: value for name, value in constants.items() if name in own})) is not True:
            found.append(f"{place}: {answer}")
    return found


def check_value(value: Any, kind: str) -> None:
    """An output of one of ComfyUI's own types."""
    if kind == "IMAGE":
        assert value.ndim == 4
        assert value.shape[3] == 3
        assert value.dtype == torch.float32
        assert 0 <= float(value.min()) <= float(value.max()) <= 1
    if kind == "MASK":
        assert value.ndim == 3
    if kind == "AUDIO":
        assert set(value) == {"waveform", "sample_rate"}
        assert value["waveform"].ndim == 3
        assert isinstance(value["sample_rate"], int)
    if kind == "STRING":
        assert isinstance(value, str)


def execute(nodes: Mapping[str, Any], workflow: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Outputs of all nodes that an output node asks for, each executed once, as ComfyUI does it: by name and without gradients."""
    assert not (wrong := faults(nodes, workflow)), wrong
    done: dict[str, tuple[Any, ...]] = {}

    def output_of(place: str) -> tuple[Any, ...]:
        if place not in done:
            node = nodes[workflow[place]["class_type"]]
            given = {name: output_of(one[0])[one[1]] if is_link(one) else one for name, one in workflow[place]["inputs"].items()}
            found = getattr(node(), node.FUNCTION)(**given)
            assert isinstance(found, tuple)
            assert len(found) == len(node.RETURN_TYPES)
            for value, kind in zip(found, node.RETURN_TYPES, strict=True):
                if value is not None:
                    check_value(value, kind)
            done[place] = found
        return done[place]

    with torch.inference_mode():
        for place, one in workflow.items():
            if getattr(nodes[one["class_type"]], "OUTPUT_NODE", False):
                output_of(place)
    return done


def read_workflow(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
