#!/usr/bin/env python3
"""An origin that keeps a store of its own by following a tenant's committed entries.

It needs nothing but the standard library, and shows all that such an origin has to do:

- the position is stored in the same transaction as what the entry did: after a kill it goes on from
  there, and each entry takes effect once;
- when the log no longer has what follows (not_retained), or the position is of another history
  (diverged_history), it reads the whole state and goes on from where the log was BEFORE that;
- what it reads so may be newer than that position: an entry that is not newer than what is stored is
  passed over (its index against the one in the ETag, where both are of one group);
- when its coordinator ends the stream or dies, also in the middle of an answer, it goes to the next one;
- when there is no such tenant any more (unknown_tenant), it drops what it has.

    origin.py follow --api URL [--api URL…] --token T --tenant T --types notes,docs --store FILE
    origin.py dump --store FILE
"""

import argparse
import http.client
import json
import sqlite3
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# The coordinator says something every 5 seconds.
SILENCE_S = 15
RETRY_S = 0.2
START_ANEW = ("not_retained", "diverged_history")


class StartAnew(Exception):
    """The stored position is of no use any more."""


class Gone(Exception):
    """There is no such tenant (any more)."""


class Store:
    """Resources and the position up to which they are true, in one SQLite file."""

    def __init__(self, path):
        # Transactions are begun and ended by hand.
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS resources "
            "(type TEXT, id TEXT, etag TEXT, content TEXT, PRIMARY KEY (type, id))"
        )
        self.db.execute("CREATE TABLE IF NOT EXISTS position (only_one INTEGER PRIMARY KEY, at TEXT)")

    def position(self):
        row = self.db.execute("SELECT at FROM position").fetchone()
        return row[0] if row else None

    def transaction(self, position, change):
        """All of `change` and the position, or nothing."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            change()
            self.db.execute("INSERT OR REPLACE INTO position VALUES (0, ?)", (position,))
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def put(self, kind, resource_id, etag, content):
        self.db.execute(
            "INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)",
            (kind, resource_id, etag, json.dumps(content, sort_keys=True)),
        )

    def clear(self):
        self.db.execute("DELETE FROM resources")

    def forget(self):
        self.transaction(None, self.clear)

    def apply(self, entry):
        if entry["kind"] == "purge":
            self.clear()
        for operation in entry["operations"]:
            name = (operation["resource_type"], operation["resource_id"])
            row = self.db.execute(
                "SELECT etag FROM resources WHERE type = ? AND id = ?", name
            ).fetchone()
            if row and has_entry(row[0], entry):
                continue  # read with the whole state already
            if operation["operation"] == "put":
                self.put(*name, operation["etag"], content_of(operation))
            else:
                self.db.execute("DELETE FROM resources WHERE type = ? AND id = ?", name)

    def all(self):
        rows = self.db.execute("SELECT type, id, content FROM resources ORDER BY type, id")
        return {f"{kind}/{name}": json.loads(content) for kind, name, content in rows}


def has_entry(etag, entry):
    """Whether what has this ETag, "group-term-index", is not older than the entry. Indexes of two groups
    say nothing of each other: what moved here is older than what is written here."""
    group, _, index = (int(part) for part in etag.strip('"').split("-"))
    return group == entry["group"] and index >= entry["index"]


def content_of(shown):
    return {"data": shown["data"]} if "data" in shown else {"data_base64": shown["data_base64"]}


class Coordinator:
    """One coordinator's API."""

    def __init__(self, url, options):
        self.url, self.options = url, options

    def open(self, path, headers=None, **query):
        query = {name: value for name, value in query.items() if value is not None}
        request = urllib.request.Request(f"{self.url}{path}?{urllib.parse.urlencode(query)}")
        request.add_header("Authorization", f"Bearer {self.options.token}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            return urllib.request.urlopen(request, timeout=SILENCE_S)
        except urllib.error.HTTPError as error:
            with error:
                code = json.loads(error.read() or b"{}").get("code")
            if code in START_ANEW:
                raise StartAnew(code) from error
            if code == "unknown_tenant":
                raise Gone(code) from error
            raise

    def get(self, path, headers=None, **query):
        with self.open(path, headers, **query) as response:
            return json.load(response)

    def read_whole_state(self, store):
        """Position first, then the state: so nothing is between them that is in neither."""
        tenant = self.options.tenant
        answer = self.get("/v1/replication/position", tenant=tenant)
        position = answer["positions"][0]["position"]
        found = []
        for kind in self.options.types:
            after = None
            while True:
                path = f"/v1/data/{kind}"
                headers = {"X-MAIA-Tenant-ID": tenant}
                page = self.get(path, headers, limit=1000, after=after)
                found += [(kind, item) for item in page["items"]]
                after = page["next"]
                if after is None:
                    break

        def replace():
            store.clear()
            for kind, item in found:
                store.put(kind, item["id"], item["etag"], content_of(item))

        store.transaction(position, replace)
        say(f"read the whole state: {len(found)} resources as of {position}")

    def follow(self, store):
        """Until the stream ends; why."""
        path, position = "/v1/replication/stream", store.position()
        with self.open(path, tenant=self.options.tenant, after=position) as stream:
            for name, position, data in events(stream):
                if name == "entry":
                    entry = json.loads(data)
                    store.transaction(position, lambda entry=entry: store.apply(entry))
                elif name == "position":
                    store.transaction(position, lambda: None)
                elif name == "end":
                    reason = json.loads(data)["reason"]
                    if reason in START_ANEW:
                        raise StartAnew(reason)
                    if reason == "unknown_tenant":
                        raise Gone(reason)
                    return reason
        return "broken off"


def events(stream):
    """Server-Sent Events as (event, id, data); one that was broken off is not among them."""
    name, position, data = None, None, []
    for line in stream:
        line = line.decode().rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            position = value
        elif field == "data":
            data.append(value)
        elif not line and name:
            yield name, position, "\n".join(data)
            name, position, data = None, None, []


def say(text):
    print(text, file=sys.stderr, flush=True)


def follow(options):
    store = Store(options.store)
    coordinators = [Coordinator(url, options) for url in options.api]
    anew = store.position() is None
    while True:
        for coordinator in coordinators:
            try:
                if anew:
                    coordinator.read_whole_state(store)
                    anew = False
                say(f"{coordinator.url}: {coordinator.follow(store)}")
            except StartAnew as reason:
                say(f"{coordinator.url}: {reason}")
                anew = True
            except Gone as reason:
                say(f"{coordinator.url}: {reason}")
                if not anew:
                    store.forget()
                    anew = True
            except (OSError, ValueError, http.client.HTTPException) as error:
                say(f"{coordinator.url}: {error}")
            time.sleep(RETRY_S)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    following = commands.add_parser("follow")
    following.add_argument("--api", action="append", required=True)
    following.add_argument("--token", required=True)
    following.add_argument("--tenant", required=True)
    following.add_argument("--types", required=True, type=lambda text: text.split(","))
    following.add_argument("--store", required=True)
    commands.add_parser("dump").add_argument("--store", required=True)
    options = parser.parse_args()
    if options.command == "dump":
        print(json.dumps(Store(options.store).all(), sort_keys=True))
    else:
        follow(options)


if __name__ == "__main__":
    main()
