"""docker-compose.yml says the same to every program that reads it.

Readers of YAML differ in which mapping of a merge list (`<<: [...]`) wins (PyYAML 6.0.3 took the first one, 6.0.4 takes
the last), and readers of compose files in defaults within defaults and in the splitting of commands.
"""

import re
from collections import Counter

import pytest
import yaml

from tests.fakes.deployment import COMPOSE, DEPLOY, ROOT

FILES = [COMPOSE, *sorted(DEPLOY.rglob("*.yaml")), *sorted(ROOT.glob(".github/**/*.yml"))]


def merged_twice(text: str) -> set[str]:
    """Keys that stand in two mappings of one merge list, anywhere in these documents."""
    return {key for document in yaml.compose_all(text) for node in _nodes(document) for key in _merged_twice(node)}


def _nodes(node: yaml.Node):
    yield node
    children = node.value if isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) else ()
    for child in children:
        for part in child if isinstance(child, tuple) else (child,):
            yield from _nodes(part)


def _merges(node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return []
    merged = [value for key, value in node.value if key.value == "<<"]
    return [each for value in merged for each in (value.value if isinstance(value, yaml.SequenceNode) else [value])]


def _keys(node: yaml.Node) -> set[str]:
    own = {key.value for key, _ in node.value if key.value != "<<"}
    return own.union(*(_keys(each) for each in _merges(node)))


def _merged_twice(node: yaml.Node) -> set[str]:
    counts = Counter(key for each in _merges(node) for key in _keys(each))
    return {key for key, count in counts.items() if count > 1}


def test_a_key_of_two_mappings_of_a_merge_list_is_seen_through_anchors_and_nested_merges():
    text = "{a: &a {x: 1, z: 1}, b: &b {<<: *a, y: 1}, c: &c {x: 2}, d: {<<: [*b, *c], z: 3}}"
    assert merged_twice(text) == {"x"}
    assert merged_twice("{a: &a {x: 1}, b: {<<: *a, x: 2}}") == set(), "a mapping's own key wins everywhere"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_key_stands_in_two_mappings_of_a_merge_list(file):
    assert merged_twice(file.read_text()) == set()


def test_no_default_holds_another_variable():
    nested = re.compile(r"\$\{[^}]*\$")
    assert nested.search("${A:-${B}/c}")
    assert nested.findall(COMPOSE.read_text()) == []


def test_commands_are_lists_of_words_that_no_variable_is_split_into():
    for name, service in yaml.safe_load(COMPOSE.read_text())["services"].items():
        words = [service["command"], service["healthcheck"].get("test", [])]
        assert all(isinstance(each, list) for each in words), name
        assert not [word for each in words for word in each if "$" in word], name
    assert "entrypoint" not in COMPOSE.read_text()
