"""The images, built without a registry: over a Debian made by debootstrap, from wheels that pip fetched before."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.docker.daemon import Docker, NoDocker

ROOT = Path(__file__).parents[2]
DOCKERFILE = "infra/deploy/Dockerfile"
BASE = "penstock-test-base"
SUITE = "bookworm"
PACKAGES = ["python3", "python3-venv", "ca-certificates", "haproxy"]
"""Python as the base has to have it, and a balancer for the tests."""

COPIED = ["schemas", "infra", "edge", "scheduler", "workers", "README.md", "LICENSE", "CHANGELOG.md"]
PINS = ["pyproject.toml", "constraints.txt", "constraints-vllm.txt"]

SOURCE_ONLY = ["nkeys"]
"""Pure Python that the index has no wheels of."""


def make_base(docker: Docker, directory: Path) -> None:
    """Imports a fresh Debian as `BASE`, unless the daemon has one. Raises NoDocker."""
    if docker.run("image", "inspect", BASE).returncode == 0:
        return
    if shutil.which("debootstrap") is None:
        raise NoDocker("there is no debootstrap to make a base image with")
    root = directory / "root"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root), *_mirror()],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise NoDocker(f"debootstrap failed: {made.stdout.strip().splitlines()[-1:]}")
    archive = directory / "base.tar"
    subprocess.run(
        ["tar", "-C", str(root), "--exclude=./var/cache/apt", "-cf", str(archive), "."], check=True
    )
    docker("import", str(archive), BASE)
    shutil.rmtree(root)
    archive.unlink()


def make_context(docker: Docker, directory: Path) -> Path:
    """A build context with the sources as they are now, and the wheels of everything they need."""
    context = directory / "context"
    context.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context / name)
    for name in [*PINS, ".dockerignore"]:
        shutil.copy(ROOT / name, context / name)
    version = docker(
        "run",
        "--rm",
        "--network",
        "none",
        BASE,
        "python3",
        "-c",
        "import sys; print('%d.%d' % sys.version_info[:2])",
    )
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wheels = ["--constraint", str(ROOT / "constraints.txt"), "--find-links", str(context / "wheels")]
    # For any Python, so that they are right for the base's whatever this one is.
    _pip("wheel", "--no-deps", "--wheel-dir", str(context / "wheels"), *wheels, *SOURCE_ONLY)
    _pip(
        *["download", "--only-binary", ":all:", "--python-version", version],
        *["--dest", str(context / "wheels"), *wheels, *wanted],
    )
    return context


def build(docker: Docker, context: Path, target: str, tag: str, **arguments: str) -> None:
    """One image, without a network. Fails with the builder's words."""
    given = {"BASE": BASE, **arguments}
    words = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    docker(
        *["build", "--network", "none", "--target", target, "--tag", tag, *words],
        *["--file", str(context / DOCKERFILE), str(context)],
    )


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _mirror() -> list[str]:
    """Where this machine's apt gets Debian from; without one, debootstrap's own."""
    listed = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(SITE) $(REPO_URI)",
            "Created-By: Packages",
            "Codename: bookworm",
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return listed[1:2]
