"""Our parser and those of prometheus_client read the same documents. Where they differ, the list of
disagreements says why; it has no entry that is not needed.

`cargo xtask test` builds the example `dump` and sets STEADFAST_DUMP.
"""

import fnmatch
import json
import os
import pathlib
import subprocess
import tomllib

import pytest

import corpus
import oracle

DOCUMENTS = corpus.documents()

LISTED = tomllib.loads((pathlib.Path(__file__).parent / "disagreements.toml").read_text())["disagreement"]


@pytest.fixture(scope="session")
def ours(tmp_path_factory):
    """(format, name) -> what our parser made of it."""
    dump = pathlib.Path(os.environ.get("STEADFAST_DUMP", "target/debug/examples/dump")).resolve()
    if not dump.exists():
        pytest.fail(f"{dump} does not exist: run `cargo xtask test`, or build the example `dump`")
    folder = tmp_path_factory.mktemp("documents")
    found = {}
    for kind in (corpus.PROMETHEUS, corpus.OPENMETRICS):
        paths = {}
        for (of, name), document in DOCUMENTS.items():
            if of == kind:
                path = folder / f"{kind}-{name}"
                path.write_bytes(document)
                paths[str(path)] = name
        run = subprocess.run([dump, kind, *paths], check=True, capture_output=True, text=True, timeout=30)
        for line in run.stdout.splitlines():
            read = json.loads(line)
            found[kind, paths[read["path"]]] = read
    return found


def listed(kind, name):
    return [entry for entry in LISTED if kind in entry["formats"] and fits(name, entry)]


def fits(name, entry):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in entry["documents"])


@pytest.mark.parametrize(("kind", "name"), DOCUMENTS, ids=[f"{kind}-{name}" for kind, name in DOCUMENTS])
def test_both_read_the_same_but_for_what_is_listed(kind, name, ours):
    differs = oracle.disagreement(kind, DOCUMENTS[kind, name], ours[kind, name])
    entries = listed(kind, name)
    assert len(entries) <= 1, "listed more than once"
    if entries:
        assert differs, f"they agree; the list says: {entries[0]['reason']}"
    else:
        assert not differs, DOCUMENTS[kind, name].decode(errors="replace")


def test_each_listed_pattern_fits_documents_of_its_formats():
    for entry in LISTED:
        for pattern in entry["documents"]:
            for kind in entry["formats"]:
                fitting = [name for of, name in DOCUMENTS if of == kind and fnmatch.fnmatchcase(name, pattern)]
                assert fitting, f"{pattern} fits no document of {kind}"


def test_there_are_documents_enough():
    assert len(DOCUMENTS) >= 200
    listed_ones = [key for key in DOCUMENTS if listed(*key)]
    assert len(DOCUMENTS) - len(listed_ones) >= 200
