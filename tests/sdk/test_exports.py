"""Exports, read back by what people read them with: DuckDB, pyarrow, pandas. Rows come from real requests through the real binary.

Every format holds the same rows, of the documented types, and their sum is the report's to the nano-dollar.
"""

import datetime
import gzip
import http.server
import io
import json
import os
import pty
import select
import subprocess
import threading
import time
import urllib.request

import duckdb
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from conftest import admin
from gateway import ADMIN_TOKEN, binary

INTEGERS = [
    "latency_us", "ttft_us", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "cost_nanousd",
]  # fmt: skip
# As docs/ledger.md has it.
ARROW = {
    "seq": pyarrow.int64(),
    "at": pyarrow.timestamp("us", tz="UTC"),
    "attempt": pyarrow.int32(),
    "http_status": pyarrow.int32(),
    "stream": pyarrow.bool_(),
    **{name: pyarrow.int64() for name in INTEGERS},
    "prev_hash": pyarrow.binary(32),
    "hash": pyarrow.binary(32),
}
DUCKDB = {
    "seq": "BIGINT",
    "at": "TIMESTAMP WITH TIME ZONE",
    "attempt": "INTEGER",
    "http_status": "INTEGER",
    "stream": "BOOLEAN",
    **{name: "BIGINT" for name in INTEGERS},
    "prev_hash": "BLOB",
    "hash": "BLOB",
}
COLUMNS = (
    "seq at request_id attempt endpoint provider model route key_id tags outcome http_status stream latency_us ttft_us input_tokens "
    "cached_input_tokens cache_write_tokens output_tokens reasoning_tokens usage_source cost_nanousd price_version decision prev_hash hash"
).split()
ROWS = 13


def fetch(gateway, query):
    request = urllib.request.Request(
        f"{gateway.base}/admin/ledger/export?{query}", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


@pytest.fixture
def used(gateway, client):
    """Good answers, streams, a failover, a failed request: unary and streamed, priced and free, with tags that need quotes."""
    for n in range(8):
        tag = {"breakwater": {"tag": f'team=r"ed, {n}' if n % 2 else "team=blué"}}
        stream = client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "hi"}], stream=n % 3 == 0, extra_body=tag
        )
        if n % 3 == 0:
            list(stream)
    client.chat.completions.create(model="fallback", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(Exception, match="400"):
        client.chat.completions.create(model="status-400", messages=[{"role": "user", "content": "hi"}])
    for _ in range(2):
        client.chat.completions.create(model="ok", messages=[{"role": "user", "content": "hi"}])
    until = time.monotonic() + 10
    while fetch(gateway, "format=jsonl").count(b"\n") < ROWS:
        assert time.monotonic() < until, fetch(gateway, "format=jsonl").decode()
        time.sleep(0.05)
    return gateway


def plain(value):
    """A value as JSON lines have it."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value.hex() if isinstance(value, bytes) else value


def rows_of_duckdb(sql):
    # TIMESTAMPTZ comes as text: as a Python value it would need one more package.
    relation = duckdb.sql(sql)
    names = relation.columns
    picked = ", ".join(
        "strftime(\"at\" AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ') AS \"at\"" if name == "at" else name for name in names
    )
    return [dict(zip(names, map(plain, row), strict=True)) for row in relation.project(picked).fetchall()]


def test_every_format_holds_the_same_rows_and_the_reports_sum(used, tmp_path):
    report = admin(used, "GET", "/admin/ledger?group_by=model")
    lines = [json.loads(line) for line in fetch(used, "format=jsonl").splitlines()]
    assert [row["seq"] for row in lines] == list(range(1, ROWS + 1))
    assert {row["outcome"] for row in lines} >= {"success", "server_error"}
    assert {row["stream"] for row in lines} == {True, False}
    assert sum(row["cost_nanousd"] or 0 for row in lines) == report["total"]["cost_nanousd"] > 0
    for row in lines:
        assert list(row) == COLUMNS
        row["tags"] = json.dumps(row["tags"], separators=(",", ":"), ensure_ascii=False)

    (tmp_path / "ledger.parquet").write_bytes(fetch(used, "format=parquet"))
    (tmp_path / "ledger.csv").write_bytes(fetch(used, "format=csv"))
    (tmp_path / "ledger.csv.gz").write_bytes(fetch(used, "format=csv&compress=gzip"))
    (tmp_path / "ledger.csv.zst").write_bytes(fetch(used, "format=csv&compress=zstd"))
    (tmp_path / "ledger.jsonl.gz").write_bytes(fetch(used, "format=jsonl&compress=gzip"))

    assert rows_of_duckdb(f"FROM '{tmp_path}/ledger.parquet'") == lines
    types = {name: DUCKDB.get(name, "VARCHAR") for name in COLUMNS}
    relation = duckdb.sql(f"FROM '{tmp_path}/ledger.parquet'")
    assert dict(zip(relation.columns, map(str, relation.types), strict=True)) == types

    texts = {name: "VARCHAR" for name in COLUMNS if name in ("prev_hash", "hash") or name not in DUCKDB}
    for name in ["ledger.csv", "ledger.csv.gz", "ledger.csv.zst"]:
        columns = {**DUCKDB, **texts}
        told = "{" + ", ".join(f"'{column}': '{columns[column]}'" for column in COLUMNS) + "}"
        read = rows_of_duckdb(f"FROM read_csv('{tmp_path}/{name}', columns = {told}, header = true)")
        for row in read:
            row.update({text: row[text] or "" for text in texts})
        assert read == lines, name

    table = pyarrow.parquet.read_table(tmp_path / "ledger.parquet")
    assert [(f.name, f.type) for f in table.schema] == [(name, ARROW.get(name, pyarrow.string())) for name in COLUMNS]
    assert [f.name for f in table.schema if f.nullable] == ["ttft_us", "cost_nanousd"]
    assert [{name: plain(value) for name, value in row.items()} for row in table.to_pylist()] == lines
    checkpoint = json.loads(pyarrow.parquet.read_metadata(tmp_path / "ledger.parquet").metadata[b"breakwater.checkpoint"])
    assert (checkpoint["rows"], checkpoint["hash"]) == (ROWS, lines[-1]["hash"])

    # By SQL and by pandas, grouped as the report groups.
    expected = {row["group"]: row["cost_nanousd"] for row in report["rows"]}
    grouped = duckdb.sql(
        f"SELECT model, sum(cost_nanousd)::BIGINT FROM '{tmp_path}/ledger.parquet' GROUP BY model"
    ).fetchall()
    assert {model: cost or 0 for model, cost in grouped} == expected
    for frame in [
        pandas.read_parquet(tmp_path / "ledger.parquet", dtype_backend="pyarrow"),
        pandas.read_csv(tmp_path / "ledger.csv", dtype_backend="pyarrow"),
        pandas.read_csv(tmp_path / "ledger.csv.gz", dtype={"cost_nanousd": "Int64"}),
        pandas.read_json(io.BytesIO(gzip.decompress((tmp_path / "ledger.jsonl.gz").read_bytes())), lines=True),
    ]:
        assert list(frame.columns) == COLUMNS
        sums = frame.groupby("model")["cost_nanousd"].sum()
        assert {model: int(cost) for model, cost in sums.items()} == expected


class Slow(http.server.BaseHTTPRequestHandler):
    """An admin API whose export takes two seconds."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if "export?" in self.path:
            for _ in range(20):
                self.wfile.write(b"x" * 1000)
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def test_a_long_export_shows_how_far_it_is_on_a_terminal_only(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [binary(), "ledger", "export", "--url", f"http://127.0.0.1:{server.server_port}", "--token", "t"]
    try:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs)
        os.close(theirs)
        reader = threading.Thread(target=process.stdout.read, daemon=True)
        reader.start()
        shown = b""
        while True:
            if select.select([ours], [], [], 10)[0]:
                try:
                    piece = os.read(ours, 4096)
                except OSError:
                    break
                shown += piece
                if not piece:
                    break
            else:
                pytest.fail("nothing is shown")
        assert process.wait(10) == 0
        os.close(ours)
        assert shown.count(b"\r") >= 3 and b" bytes" in shown, shown
        piped = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True)
        assert (len(piped.stdout), piped.stderr) == (20_000, b"")
    finally:
        server.shutdown()
        server.server_close()
