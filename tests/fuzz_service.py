"""Schemathesis on the whole OpenAPI document of a live service: `python tests/fuzz_service.py --examples 60`.

Every operation is tried with examples, boundary values and random requests, valid ones and broken ones: first with a
token that may do everything, then with none. It ends with 1 where an answer was a 5xx, had a status, type or body that
the document does not have, took a request that the document forbids, or where anything but health was answered without
a token. Needs `pip install schemathesis`, which is no dependency. Runs stay in the queue: what is tried is the HTTP.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from live_service import LiveService, live_service, service_config

_SKIPPED = (
    # sections that contradict each other and names that are not there are refused, which no schema can say
    "positive_data_acceptance",
)


def main() -> int:
    """Fuzz and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=60, help="random requests for each operation and caller")
    parser.add_argument("--phases", default="examples,coverage,fuzzing", help="schemathesis' phases, by comma")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", default=".*", help="regular expression of the paths to try")
    asked = parser.parse_args()
    limits = {
        "requests_per_minute": 10**6,
        "failed_authentications_per_minute": 10**6,
        "queued_runs": 10**6,
        "targets_per_token": 10**6,
    }
    with tempfile.TemporaryDirectory() as folder:
        config = service_config(Path(folder), limits=limits)
        with live_service(config, hold=True) as service, service.http("root") as http:
            document = Path(folder) / "openapi.json"
            document.write_text(http.get("/v1/openapi.json").text)
            return max(_fuzz(service, document, who, asked) for who in ("root", None))


def _fuzz(service: LiveService, document: Path, who: str | None, asked: argparse.Namespace) -> int:
    print(f"{'with' if who else 'without'} a token", flush=True)
    command = [Path(sys.executable).parent / "schemathesis", "run", document, "--url", service.url]
    command += ["--checks", "all", "--exclude-checks", ",".join(_SKIPPED), "--phases", asked.phases]
    command += ["--mode", "all", "--max-examples", str(asked.examples), "--seed", str(asked.seed)]
    command += ["--include-path-regex", asked.paths, "--continue-on-failure"]
    if who:
        command += ["--header", f"Authorization: Bearer {service.secrets[who]}"]
    return subprocess.run(command, cwd=document.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
