"""One table of one noun: key columns for what is looked up, and the whole noun in ``doc``.

SQL is composed by psycopg from identifiers and values. Where two may race, a state
moves by ``transition`` only: the database decides who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import TupleRow
from pydantic import BaseModel
from pydantic_core import to_json

from backend.errors import DuplicateName, NotFound
from backend.store.encoding import dump, load
from backend.store.pool import Connection, Database

T = TypeVar("T", bound=BaseModel)

Filters = Mapping[str, Any]
Values = list[Any]
SCHEMA = "fluid"
LIST_LIMIT = 1000
KEPT = 10_000  # nouns that were read and are told again


@dataclass
class Seen(Generic[T]):
    """A noun that is only told on. Never change it: the next who asks gets the same one."""

    version: str  # of its row
    noun: T

    @cached_property
    def json(self) -> bytes:
        """As an answer of the API has it, written once."""
        return to_json(self.noun)


class Documents(Generic[T]):
    """A repository. A subclass names its table, its model and the fields that fill the key columns."""

    table: ClassVar[str]
    model: type[T]
    columns: ClassVar[Mapping[str, str]]  # column → field of the noun; created_at is one of them
    state_column: ClassVar[str] = "state"
    id_field: ClassVar[str] = "id"
    missing: ClassVar[type[NotFound]] = NotFound
    outside_doc: ClassVar[frozenset[str]] = frozenset()  # fields that have columns of their own

    def __init__(self, database: Database) -> None:
        self._database = database
        self._name = sql.Identifier(SCHEMA, self.table)
        self._kept: dict[str, Seen[T]] = {}  # by id

    async def insert(self, noun: T) -> T:
        """Keep a new noun. Raises :class:`DuplicateName` if its id or its unique name is taken."""
        names = ["id", *self.columns, "doc"]
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            self._name,
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.Placeholder() * len(names)),
        )
        async with self._database.transaction() as connection:
            await self._write(
                connection, statement, [self._id(noun), *self._keys(noun), self._doc(noun)], noun
            )
        return noun

    async def get(self, id: str) -> T:
        """The noun. Raises the noun's own :class:`NotFound`."""
        noun = await self.find({"id": id})
        if noun is None:
            raise self._not_found(id)
        return noun

    async def find(self, filters: Filters) -> T | None:
        """The newest that matches, or None."""
        found, _ = await self.list(filters, limit=1)
        return found[0] if found else None

    async def save(self, noun: T) -> T:
        """Replace the noun of this id; the last writer wins. Raises NotFound, DuplicateName."""
        async with self._database.transaction() as connection:
            if not await self._update(connection, noun, sql.SQL("id = %s"), [self._id(noun)]):
                raise self._not_found(self._id(noun))
        return noun

    async def change(self, id: str, edit: Callable[[T], T]) -> T:
        """Read, edit and save under the row's lock: no other writer is overwritten. ``edit`` may raise."""
        lock = sql.SQL("SELECT {} FROM {} WHERE id = %s FOR UPDATE").format(self._selected(), self._name)
        async with self._database.transaction() as connection:
            row = await (await connection.execute(lock, (id,))).fetchone()
            if row is None:
                raise self._not_found(id)
            noun = edit(self._read(row))
            await self._update(connection, noun, sql.SQL("id = %s"), [id])
        return noun

    async def transition(self, id: str, from_states: Sequence[str], noun: T) -> bool:
        """Save ``noun`` if the row's state is one of ``from_states``; False and nothing done if not."""
        where = sql.SQL("id = %s AND {} = ANY(%s)").format(sql.Identifier(self.state_column))
        async with self._database.transaction() as connection:
            return await self._update(connection, noun, where, [id, [_plain(state) for state in from_states]])

    async def delete(self, id: str) -> bool:
        """Forget the noun; False if it was not there."""
        statement = sql.SQL("DELETE FROM {} WHERE id = %s").format(self._name)
        async with self._database.transaction() as connection:
            return (await connection.execute(statement, (id,))).rowcount > 0

    async def list(
        self,
        filters: Filters | None = None,
        *,
        limit: int = LIST_LIMIT,
        offset: int = 0,
        oldest_first: bool = False,
    ) -> tuple[list[T], int]:
        """A page, newest first, and how many match in all.

        ``filters``: column → value; a list, set or tuple of values means any of them; None means NULL.
        """
        async with self._database.transaction() as connection:
            rows, total = await self._page(
                connection, self._selected(), filters or {}, limit, offset, oldest_first=oldest_first
            )
        return [self._read(row) for row in rows], total

    async def seen(
        self, filters: Filters | None = None, *, limit: int = LIST_LIMIT, offset: int = 0
    ) -> tuple[Sequence[Seen[T]], int]:
        """As :meth:`list`, for who only tells them on: a noun whose row did not change since the last time
        is the same one again."""
        version = sql.SQL("id, xmin::text")
        rest = sql.SQL("SELECT {}, {} FROM {} WHERE id = ANY(%s)").format(
            version, self._selected(), self._name
        )
        async with self._database.transaction() as connection:
            rows, total = await self._page(connection, version, filters or {}, limit, offset)
            found = {
                id: self._kept[id] for id, at in rows if id in self._kept and self._kept[id].version == at
            }
            changed = [id for id, _ in rows if id not in found]
            if changed:
                for id, at, *row in await (await connection.execute(rest, (changed,))).fetchall():
                    found[id] = Seen(at, self._read(tuple(row)))
        if len(self._kept) + len(rows) > KEPT:
            self._kept.clear()
        self._kept |= found
        return [found[id] for id, _ in rows if id in found], total

    async def _page(
        self,
        connection: Connection,
        columns: sql.Composable,
        filters: Filters,
        limit: int,
        offset: int,
        *,
        oldest_first: bool = False,
    ) -> tuple[Sequence[TupleRow], int]:
        where, values = self._where(filters)
        order = sql.SQL("ASC" if oldest_first else "DESC")
        page = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY created_at {}, id {} LIMIT %s OFFSET %s").format(
            columns, self._name, where, order, order
        )
        rows = await (await connection.execute(page, [*values, limit, offset])).fetchall()
        total = offset + len(rows)
        if len(rows) == limit or (offset and not rows):
            count = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(self._name, where)
            counted = await (await connection.execute(count, values)).fetchone()
            total = counted[0] if counted else 0
        return rows, total

    # --- for subclasses -----------------------------------------------------------------------------------

    def _selected(self) -> sql.Composable:
        return sql.SQL("doc::text")

    def _read(self, row: TupleRow) -> T:
        return load(self.model, row[0])

    def _doc(self, noun: T) -> str:
        return dump(noun, exclude=set(self.outside_doc))

    def _id(self, noun: T) -> str:
        return str(getattr(noun, self.id_field))

    def _keys(self, noun: T) -> Values:
        return [_plain(getattr(noun, field)) for field in self.columns.values()]

    def _not_found(self, id: str) -> NotFound:
        what = self.model.__name__.lower()
        return self.missing(f"there is no {what} {id!r}")

    def _where(self, filters: Filters) -> tuple[sql.Composable, Values]:
        unknown = set(filters) - set(self.columns) - {"id"}
        if unknown:
            raise ValueError(f"{self.table} has no key column {sorted(unknown)}")
        parts: list[sql.Composable] = [sql.SQL("true")]
        values: Values = []
        for name, value in filters.items():
            if value is None:
                parts.append(sql.SQL("{} IS NULL").format(sql.Identifier(name)))
                continue
            many = isinstance(value, (list, tuple, set, frozenset))
            parts.append(sql.SQL("{} = ANY(%s)" if many else "{} = %s").format(sql.Identifier(name)))
            values.append([_plain(item) for item in value] if many else _plain(value))
        return sql.SQL(" AND ").join(parts), values

    async def _update(self, connection: Connection, noun: T, where: sql.Composable, values: Values) -> bool:
        names = [*self.columns, "doc"]
        assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in names)
        statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(self._name, assignments, where)
        return (
            await self._write(connection, statement, [*self._keys(noun), self._doc(noun), *values], noun) > 0
        )

    async def _write(self, connection: Connection, statement: sql.Composed, values: Values, noun: T) -> int:
        try:
            return (await connection.execute(statement, values)).rowcount
        except pg.UniqueViolation as error:
            raise self._duplicate(noun) from error

    def _duplicate(self, noun: T) -> DuplicateName:
        name = getattr(noun, "sandbox_name", None) or getattr(noun, "name", None) or self._id(noun)
        what = self.model.__name__.lower()
        return DuplicateName(f"the {what} name {name!r} is taken", remedy="choose another name")


def _plain(value: Any) -> Any:
    """Enums as their values; the driver knows the rest."""
    return value.value if isinstance(value, Enum) else value
