"""A real Prometheus that scrapes a system, and what it answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from infra.ports import free_port

SCRAPE_S = 1
START_S = 60.0


class Prometheus:
    """Scrapes what a targets file names, every second. Its rules are ours."""

    def __init__(self, program: str, directory: Path, targets: Path, rules: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        shutil.copy(rules, directory / rules.name)
        config = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [rules.name],
            "scrape_configs": [
                {
                    "job_name": "penstock",
                    "file_sd_configs": [{"files": [str(targets)], "refresh_interval": f"{SCRAPE_S}s"}],
                }
            ],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        with (directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            assert self._process.poll() is None, "prometheus ended"
            assert time.monotonic() < deadline, "prometheus does not start"
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The newest values, one per series. A wrong expression is an error."""
        return list(self.get("/api/v1/query", query=expr)["result"])

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer."""
        answer = httpx.get(self.url + path, params=parameters, timeout=10)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return json.loads(answer.text)["data"]

    def wait_for(self, expr: str, what: str, within_s: float = 60.0) -> list[dict[str, Any]]:
        """The series of `expr`, as soon as there is one."""
        deadline = time.monotonic() + within_s
        while not (found := self.query(expr)):
            assert time.monotonic() < deadline, f"{what}: no data for {expr}"
            time.sleep(0.2)
        return found

    def wait_for_scrapes(self, targets: int) -> None:
        """Until so many have all been scraped later than now. One scrape may fail on a busy machine: it has only until
        the next."""
        since = time.time()
        self.wait_for(f"count((timestamp(up) > {since}) and (up == 1)) >= {targets}", "all are scraped")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=1).status_code == 200
        except httpx.TransportError:
            return False
