"""uv's settings for where pip's say that packages are. uv reads none of pip's files and variables.

Called by install.sh: prints a shell `export` a setting. What is set for uv already stays.
"""

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping

# pip's option -> uv's variable, and what lies between the values where there are several.
VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "proxy": ("ALL_PROXY", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
}
SECTIONS = ("global", "install", ":env:")  # as pip has it, a later one counts


def uv_environment(settings: str, environment: Mapping[str, str]) -> dict[str, str]:
    """uv's variables for the lines of `pip config list` (`section.option='value'`), without those of `environment`."""
    found = dict[str, str]()
    lines = [line.partition("=") for line in settings.splitlines()]
    for section in SECTIONS:
        for name, _, value in lines:
            option = name.removeprefix(f"{section}.")
            if option != name and option in VARIABLES:
                variable, separator = VARIABLES[option]
                found[variable] = separator.join(ast.literal_eval(value).split())
    return {name: value for name, value in found.items() if name not in environment}


if __name__ == "__main__":
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    for name, value in uv_environment(listed, os.environ).items():
        print(f"export {name}={shlex.quote(value)}")
