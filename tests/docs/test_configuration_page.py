"""The committed page of settings is what the schema says."""

import runpy
from pathlib import Path

from clusterucb.config import RunConfig

DOCS = Path(__file__).parents[2] / "docs"


def keys(tree: object, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {prefix}
    return {key for name, below in tree.items() for key in keys(below, f"{prefix}.{name}".lstrip("."))}


def test_the_page_is_up_to_date():
    page = runpy.run_path(str(DOCS / "build_configuration.py"))["build"]()
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == page, "run python docs/build_configuration.py"


def test_every_setting_stands_on_the_page():
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    required = {"pool": {"path": "p"}, "target": {"path": "t"}, "model": {"base": "b"}}
    settings = keys(RunConfig.model_validate(required).model_dump(mode="json"))
    missing = [
        key for key in settings if not key.endswith(".kind") and not (f"| `{key}` |" in page or f"| `{key}." in page)
    ]
    assert len(settings) > 50
    assert not missing
