"""The README's curl lines work as printed, against a service that has the demo's names."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from live_service import live_service, service_config

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_readme_s_curl_lines_bring_a_selection(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    lines = readme.split("## Over HTTP")[1].split("```bash\n")[1].split("```")[0].splitlines()
    assert lines[0].startswith("export URL=")
    config = service_config(tmp_path, ("demo", "smollm2", "arithmetic"))
    with live_service(config) as service:
        env = os.environ | {"URL": service.url, "TOKEN": service.secrets["ann"], "no_proxy": "*"}
        script = "\n".join(["set -eo pipefail", *lines[1:]])
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "event: progressed" in done.stdout
    (run,) = (Path(config.folder) / "runs").iterdir()
    assert (tmp_path / "selection.jsonl").read_bytes() == (run / "selection.jsonl").read_bytes()
