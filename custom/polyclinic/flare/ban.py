"""What a hospital refuses to build for a job, whatever FLARE's class list says.

FLARE runs a job's own filters after the site's, so one of them could undo or overhear the privacy
scope; and its class list compares text, so ``polyclinic.flare.child.subprocess`` style paths reach
what an allowed module merely imports. Both are stopped at BEFORE_BUILD_COMPONENT; install as a
component of the job process (``startup/*__j_resources.json``).
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.fuel.utils.class_loader import load_class
from nvflare.widgets.widget import Widget

from polyclinic.flare.formats import json_only

OURS = "polyclinic."
FILTERS = ("task_result_filters", "task_data_filters")
FILTER_NODE = re.compile(r"^task_(result|data)_filters\b")


def refuse_reexport(path: str) -> None:
    """Raise unless the path names a class in the module that defines it.

    Paths outside the package are FLARE's class list's business.

    Raises:
        UnsafeComponentError: a function, a module, or a class that was imported there.
    """
    if not path.startswith(OURS):
        return
    try:
        found = load_class(path)
    except TypeError:
        raise UnsafeComponentError(f"'{path}' names no class") from None
    if not inspect.isclass(found) or found.__module__ != path.rpartition(".")[0]:
        raise UnsafeComponentError(f"'{path}' does not name a class where it is defined")


class DefinedHere(Widget):
    """Refuses components whose path names something a module merely imports."""

    def __init__(self) -> None:
        super().__init__()
        json_only()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Look at every component before it is built."""
        if event_type == EventType.BEFORE_BUILD_COMPONENT:
            config = fl_ctx.get_prop(FLContextKey.COMPONENT_CONFIG)
            for key in ("path", "class_path"):
                if isinstance(config, Mapping) and isinstance(config.get(key), str):
                    refuse_reexport(config[key])


class JobFilterBan(DefinedHere):
    """Refuses a job that brings filters of its own; also everything ``DefinedHere`` refuses."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Look at the job's configuration before its first component is built."""
        if event_type == EventType.BEFORE_BUILD_COMPONENT:
            node = fl_ctx.get_prop(FLContextKey.COMPONENT_NODE)
            if FILTER_NODE.match(node.path()) or _brings_filters(fl_ctx):
                raise UnsafeComponentError("this site allows no filters in a job's client config")
        super().handle_event(event_type, fl_ctx)


def _brings_filters(fl_ctx: FLContext) -> bool:
    context: Any = fl_ctx.get_prop(FLContextKey.CONFIG_CTX)
    config = getattr(context, "config_json", None)
    return isinstance(config, Mapping) and any(config.get(name) for name in FILTERS)
