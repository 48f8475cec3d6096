"""Tables of a study's database."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
META = Table(
    "meta", metadata, Column("key", String(20), primary_key=True), Column("value", Text, nullable=False)
)
ITEMS = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("purpose", String(10), nullable=False),
    Column("load", Integer, nullable=False),  # votes, and those that are being asked for
    Column("wanted", Integer, nullable=False),  # votes
    Column("open", Boolean, Computed("load < wanted", persisted=True)),
    Column("place", Float, nullable=False),  # random, among items of equal load
    Index("items_open", "open", "load", "place"),
)
PARTICIPANTS = Table(
    "participants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cookie", String(43), nullable=False, unique=True),
    Column("external", String(64), unique=True),  # as a recruiting service names the participant
    Column("seed", BigInteger, nullable=False),  # of the order of the session
    Column("code", String(12), nullable=False),  # of completion
    Column("consented", Float, nullable=False),
    Column("finished", Float),
)
ASSIGNMENTS = Table(
    "assignments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("token", String(22), nullable=False, unique=True),  # all that a page says of an item
    Column("participant", ForeignKey("participants.id"), nullable=False),
    Column("item", ForeignKey("items.id"), nullable=False),
    Column("purpose", String(10), nullable=False),  # item, practice, sentinel or repeat
    Column("position", Integer, nullable=False),  # in the session
    Column("shown", Integer, nullable=False),  # number of the order of the images, see `Question.orders`
    Column("handed_out", Float, nullable=False),
    Column("counted", Boolean, nullable=False),  # in the item's load
    Column("answered", Boolean, nullable=False),
    UniqueConstraint("participant", "position"),
    UniqueConstraint("participant", "item", "purpose"),
    Index("assignments_waiting", "answered", "counted", "handed_out"),
    Index("assignments_by_item", "item"),
)
VOTES = Table(
    "votes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("assignment", ForeignKey("assignments.id"), nullable=False),
    Column("attempt", Integer, nullable=False),  # counts what was changed by going back; the last one counts
    Column("choice", String(10), nullable=False),  # a place, same or different
    Column("answer", Integer, nullable=False),  # as `Question.answers` says: 1 is p1, or same
    Column("response_ms", Float, nullable=False),
    Column("shown_ms", Text, nullable=False),  # achieved durations, JSON
    Column("frame_ms", Float, nullable=False),
    Column("window_width", Integer, nullable=False),
    Column("window_height", Integer, nullable=False),
    Column("pixel_ratio", Float, nullable=False),
    Column("scale", Float, nullable=False),  # CSS pixels per pixel of the image
    Column("version", String(40), nullable=False),
    Column("received", Float, nullable=False),
    UniqueConstraint("assignment", "attempt"),
)
