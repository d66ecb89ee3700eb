"""Writes the smallest job, right or wrong on purpose."""

import json
import shutil
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parents[2] / "jobs" / "fedmm_demo" / "app" / "config"


def write_job(
    folder: Path,
    *,
    scope: str | None = "polyclinic",
    min_clients: int | None = 3,
    executor: str = "faults.Greet",
    custom: bool = False,
) -> Path:
    """A job folder for ``submit``.

    Args:
        scope: None leaves the scope out.
        min_clients: None leaves it out.
        custom: with code in the job.
    """
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    meta: dict[str, Any] = {"name": folder.name, "deploy_map": {"app": ["@ALL"]}}
    meta |= {"scope": scope} if scope is not None else {}
    meta |= {"min_clients": min_clients} if min_clients is not None else {}
    server = {
        "format_version": 2,
        "workflows": [{"id": "one", "path": "faults.OneTask", "args": {"min_responses": 3}}],
    }
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["*"], "executor": {"path": executor, "args": {}}}],
    }
    for path, content in (
        (folder / "meta.json", meta),
        (config / "config_fed_server.json", server),
        (config / "config_fed_client.json", client),
    ):
        path.write_text(json.dumps(content))
    # The egress filter reads which study a job is of.
    for name in ("study.json", "panels.json"):
        shutil.copy(DEMO / name, config / name)
    if custom:
        (folder / "app" / "custom").mkdir()
        (folder / "app" / "custom" / "mine.py").write_text("x = 1\n")
    return folder
