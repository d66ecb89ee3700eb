"""Which formats FLARE reads: JSON, and nothing that includes files or expands variables.

FLARE reads a submission's ``meta.conf`` (HOCON) before anything of ours can look at it, and
HOCON's ``include`` opens files and addresses of the submitter's choice.
"""

from typing import NoReturn

from nvflare.fuel.utils.config import ConfigFormat, ConfigLoader
from nvflare.fuel.utils.config_factory import ConfigFactory


class RefusingLoader(ConfigLoader):
    """Stands where FLARE looks for the reader of a format."""

    def load_config(self, file_path: str) -> NoReturn:
        """Refuse a file.

        Raises:
            ValueError: which FLARE hands to the submitter as the reason.
        """
        raise ValueError("configs are JSON here, no other format is read")

    load_config_from_str = load_config_from_dict = load_config


def json_only() -> None:
    """Let FLARE read no format but JSON in this process, from now on."""
    readers = ConfigFactory._fmt2Loader  # FLARE has no switch for it
    for kind in ConfigFormat:
        if kind is not ConfigFormat.JSON:
            readers[kind] = RefusingLoader(kind)
