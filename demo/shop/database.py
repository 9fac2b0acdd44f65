"""The shop's database: two tables in SQLite, filled around a letter."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import Random

from demo.shop.letter import Letter, draw_letter

SCHEMA = """
CREATE TABLE products (name TEXT PRIMARY KEY, price INTEGER, stock INTEGER);
CREATE TABLE orders (number INTEGER PRIMARY KEY, customer TEXT, product TEXT REFERENCES products (name),
                     status TEXT, paid INTEGER);
"""
STATUSES = ("packed", "sent", "delivered", "returned")
_OTHERS = 40
_MOST_STEPS = 100_000  # of SQLite's machine: a query that never ends is wrong
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


@contextmanager
def shop_database(letter: Letter) -> Iterator[sqlite3.Connection]:
    """A database in memory that knows the letter's order among others, the same for the same letter.

    The customer has ordered once more, and somebody else the same product, so that a query which looks by the wrong
    thing finds other rows. It can be read and not changed.
    """
    rng = Random(f"database {letter.order}")
    others = [draw_letter(rng, "train") for _ in range(_OTHERS)]
    ordered = {other.order: (other.customer, other.product) for other in others}
    ordered[letter.order + 1] = (letter.customer, others[0].product)
    ordered[letter.order - 1] = (others[1].customer, letter.product)
    ordered[letter.order] = (letter.customer, letter.product)
    products = sorted({product for _, product in ordered.values()})
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        connection.executemany(
            "INSERT INTO products VALUES (?, ?, ?)",
            [(name, rng.randint(5, 90), rng.randint(100, 999)) for name in products],
        )
        connection.executemany(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?)",
            [
                (number, *who_and_what, rng.choice(STATUSES), rng.randint(1000, 9999))
                for number, who_and_what in sorted(ordered.items())
            ],
        )
        connection.set_authorizer(_authorize)
        yield connection


def _authorize(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def rows_of(connection: sqlite3.Connection, query: str) -> list[tuple[object, ...]] | None:
    """The rows of one query, in order of their values; None if it is no query, asks too much or changes something."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1000
        return int(steps > _MOST_STEPS)

    connection.set_progress_handler(count, 1000)
    try:
        return sorted(connection.execute(query).fetchall(), key=repr)
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return None
