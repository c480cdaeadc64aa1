"""The image is pinned, runs as a user, copies what is there, and is the one that the cluster files name."""

import re
from pathlib import Path

import ray

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster_configs"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
INSTRUCTIONS = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)


def of(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def test_the_base_is_the_pinned_ray():
    assert of("ARG") == [f"RAY_VERSION={ray.__version__}"]
    assert of("FROM") == ["rayproject/ray:${RAY_VERSION}-py311-cpu"]
    assert f"ray=={ray.__version__}\n" in (ROOT / "constraints.txt").read_text()


def test_everything_is_installed_as_constrained():
    installs = [rest for rest in of("RUN") if "pip install" in rest]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in rest for rest in installs)


def test_it_runs_as_a_user():
    assert of("USER")[-1] == "ray"
    last_root = max(i for i, each in enumerate(INSTRUCTIONS) if each == ("USER", "root"))
    as_root = [
        name for name, _ in INSTRUCTIONS[last_root + 1 :][: INSTRUCTIONS[last_root + 1 :].index(("USER", "ray"))]
    ]
    assert as_root == ["RUN"]


def test_what_it_copies_exists_and_is_let_through():
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    copied = [name for rest in of("COPY") for name in rest.split()[1:-1]]
    assert set(copied) == let_through
    assert all((ROOT / name).exists() for name in copied)
    packages = re.search(r"packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    assert set(re.findall(r'"(\w+)"', packages[1])) <= set(copied)


def test_no_secret_is_in_it():
    names = re.findall(r"(\w+)=", " ".join(of("ENV") + of("ARG")))
    assert names
    assert not [name for name in names if re.search(r"TOKEN$|SECRET|PASSWORD|KEY", name)]


def test_the_cluster_files_name_this_image():
    tag = re.search(r"--tag (\S+)", DOCKERFILE)
    assert tag is not None
    named = {
        image
        for path in FOLDER.glob("*/*.yaml")
        for image in re.findall(r"^\s*image: (\S+)$", path.read_text(), re.MULTILINE)
    }
    assert named == {tag[1]}
