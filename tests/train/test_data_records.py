"""Reading records from files, folders and data sets, and errors for damaged ones."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys

import pytest

from ordito.errors import MissingDependencyError, OrditoError
from ordito.train.data import files
from ordito.train.data.records import Cursor, read_records, records_after, sources_of

RECORDS = [{"text": "uno"}, {"text": "due ✓"}, {"text": "tre", "n": 3}]


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def parquet(path, records, rows=2):
    import pyarrow
    import pyarrow.parquet

    keys = {key for record in records for key in record}
    rows_of_all = [dict.fromkeys(keys) | record for record in records]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_of_all), path, row_group_size=rows)
    return str(path)


def everything(tmp_path):
    """The same records as every kind of file, and their places in it."""
    return {
        "jsonl": (written(tmp_path / "a.jsonl", lines(RECORDS)), ":{}"),
        "jsonl.gz": (written(tmp_path / "a.jsonl.gz", gzip.compress(lines(RECORDS).encode())), ":{}"),
        "json": (written(tmp_path / "a.json", "\ufeff \n" + json.dumps(RECORDS, indent=1)), " item {}"),
        "json lines": (written(tmp_path / "b.json", lines(RECORDS)), ":{}"),
        "parquet": (parquet(tmp_path / "a.parquet", RECORDS), " row {}"),
        "hf": ("hf:" + str(folder_of(tmp_path)), "#train row {}"),
    }


def folder_of(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    written(folder / "train.jsonl", lines(RECORDS))
    return folder


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    datasets.disable_progress_bars()


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "json lines", "parquet", "hf"])
def test_the_same_records_from_every_kind_of_file(kind, tmp_path):
    source, place = everything(tmp_path)[kind]
    found = list(read_records([source]))
    assert [record for _, record in found] == RECORDS
    assert [where for where, _ in found] == [source + place.format(number) for number in (1, 2, 3)]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "json lines", "parquet", "hf"])
def test_reading_continues_after_a_cursor(kind, tmp_path):
    source, _ = everything(tmp_path)[kind]
    sources = sources_of([source, source])
    found = list(records_after(Cursor(), sources))
    for number, (cursor, _, _) in enumerate(found):
        assert list(records_after(cursor, sources)) == found[number + 1 :]


def test_blank_lines_are_skipped_but_counted(tmp_path):
    source = written(tmp_path / "a.jsonl", '\n{"text": "a"}\r\n  \n\n{"text": "b"}')
    assert list(read_records([source])) == [(f"{source}:2", {"text": "a"}), (f"{source}:5", {"text": "b"})]


def test_a_text_is_a_whole_file(tmp_path):
    source = written(tmp_path / "a.txt", "nel mezzo\n\n  50 % del cammin\n")
    assert list(read_records([source])) == [(source, {"text": "nel mezzo\n\n  50 % del cammin\n"})]
    assert list(read_records([written(tmp_path / "b.txt", " \n\n")])) == []


@pytest.mark.parametrize("end", ["", "%\n", "%"])
def test_items_between_lines_of_a_percent_sign(end, tmp_path):
    source = written(tmp_path / "fortunes.txt.gz", gzip.compress(f"%\nprimo\n  -- x\n%\n%\r\nsecondo\n{end}".encode()))
    assert list(read_records([source])) == [(f"{source}:2", {"text": "primo\n  -- x"}), (f"{source}:6", {"text": "secondo"})]


def test_a_folder_is_its_files_by_name(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b/1.jsonl", "c.jsonl", "a.jsonl", ".git/x.jsonl"):
        written(tmp_path / name, lines([{"text": name}]))
    written(tmp_path / "README.md", "# no records")
    assert [record["text"] for _, record in read_records([str(tmp_path)])] == ["a.jsonl", "b/1.jsonl", "c.jsonl"]


def test_null_columns_are_missing_keys(tmp_path):
    records = [{"messages": [{"role": "user", "content": "x"}]}, {"messages": [{"role": "user", "content": "x", "name": "y"}]}]
    assert [record for _, record in read_records([parquet(tmp_path / "a.parquet", records)])] == records


def test_splits_and_saved_sets_of_hugging_face(tmp_path):
    import datasets

    folder = folder_of(tmp_path)
    written(folder / "test.jsonl", lines(RECORDS[:1]))
    assert [record for _, record in read_records([f"hf:{folder}#test"])] == RECORDS[:1]
    assert [record for _, record in read_records([f"hf:{folder}"], stream=True)] == RECORDS
    saved = tmp_path / "saved"
    datasets.load_dataset(str(folder)).save_to_disk(str(saved))
    assert [record for _, record in read_records([f"hf:{saved}#test"])] == RECORDS[:1]
    with pytest.raises(OrditoError, match="#nope: cannot be read"):
        list(read_records([f"hf:{folder}#nope"]))


def test_names_of_the_hub():
    assert [str(sources_of([name])[0]) for name in ("hf:org/set", "hf:org/set:it#test")] == [
        "hf:org/set#train",
        "hf:org/set:it#test",
    ]


DEEP = 3_000
BROKEN = {
    "cut.jsonl": ('{"text": "a"}\n{"text": ', ":2: is no JSON .* expected one object a line"),
    "list.jsonl": ("[1, 2]", ":1: is a list, expected an object"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "perch\xe9"}', ":2: is no UTF-8 text at byte 16"),
    "deep.jsonl": ('{"a": ' + "[" * DEEP + "]" * DEEP + "}", ":1: is nested more than 64 deep"),
    "deepish.jsonl": ('{"a": ' + "[" * 70 + "]" * 70 + "}", ":1: is nested more than 64 deep"),
    "digits.jsonl": ('{"a": ' + "9" * 5_000 + "}", ":1: is no JSON"),
    "numbers.json": ("[1, 2]", " item 1: is a int, expected an object"),
    "cut.json": ('[{"text": "a"}, {"te', ": is no JSON .* expected a list of objects"),
    "latin.txt": (b"a\n%\nperch\xe9", ":3: is no UTF-8 text at byte 6"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}\n' * 1000)[:-20], ": cannot be read"),
    "plain.txt.gz": (b"plain text", ": cannot be read"),
    "cut.parquet": (b"PAR1 and no more", ": cannot be read"),
    "empty.parquet": (b"", ": cannot be read"),
    "table.csv": ("a,b", ": is no file of records, expected a name that ends in .jsonl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_named(name, tmp_path):
    data, said = BROKEN[name]
    source = written(tmp_path / name, data)
    with pytest.raises(OrditoError, match=f"^{source}{said}") as caught:
        list(read_records([source]))
    assert "\n" not in str(caught.value)


def test_parquet_that_is_damaged_inside(tmp_path):
    path = tmp_path / "a.parquet"
    parquet(path, [{"text": f"row {n} " * 20} for n in range(1000)], rows=100)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            list(read_records([str(path)]))
        except OrditoError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 5


def test_a_line_of_gigabytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_RECORD", 1000)
    bomb = written(tmp_path / "bomb.jsonl.gz", gzip.compress(b'{"text": "a"}\n{"text": "' + b"x" * 10_000_000))
    with pytest.raises(OrditoError, match="bomb.jsonl.gz:2: the line is longer than 1,000 bytes"):
        list(read_records([bomb]))
    long = written(tmp_path / "long.txt", "riga\n" * 1000)
    with pytest.raises(OrditoError, match="long.txt:1: the text is longer than 1,000 bytes; divide it"):
        list(read_records([long]))
    monkeypatch.setattr(files, "MAX_LIST", 100)
    with pytest.raises(OrditoError, match="write it as .jsonl"):
        list(read_records([written(tmp_path / "long.json", json.dumps(RECORDS * 100))]))


def test_missing_sources(tmp_path):
    with pytest.raises(OrditoError, match="there is no such file or folder"):
        list(read_records([str(tmp_path / "none.jsonl")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OrditoError, match="has no file of records"):
        list(read_records([str(tmp_path / "empty")]))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(OrditoError, match="is no file of records"):
        list(read_records([str(tmp_path / "pipe.jsonl")]))


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "a.parquet"), ("datasets", "hf:org/set")])
def test_a_missing_package_is_named(module, name, tmp_path, monkeypatch):
    source = name if name.startswith("hf:") else parquet(tmp_path / name, RECORDS)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"needs the package {module}: pip install 'ordito\\[train\\]'"):
        list(read_records([source]))


def test_packages_are_imported_only_when_needed(tmp_path):
    source = written(tmp_path / "a.jsonl", lines(RECORDS))
    code = f"import sys; from ordito.train.data.records import *; list(read_records([{source!r}])); print('pyarrow' in sys.modules, 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"


def test_identity_follows_the_contents(tmp_path):
    def identity(data, name="a.jsonl", quick=False):
        return sources_of([written(tmp_path / name, data)])[0].identity(quick)

    assert identity("x") == identity("x", "b.jsonl")
    assert len({identity("x"), identity("y"), identity("x", "a.txt"), identity("x y")}) == 4
    large = bytearray(3 << 20)
    before = identity(bytes(large), quick=True)
    large[-1] = 1
    assert identity(bytes(large), quick=True) != before
    folder = folder_of(tmp_path)
    whole = sources_of([f"hf:{folder}"])[0].identity(False)
    written(folder / "train.jsonl", lines(RECORDS[:2]))
    assert sources_of([f"hf:{folder}"])[0].identity(False) != whole
