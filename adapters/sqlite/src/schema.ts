/**
 * What stands in the file. Positions count per topic and without gaps; a message's place packs both into one number,
 * so that each topic's log is a range of one table's own key and needs no index beside it.
 */

/** `WYBL`: says of a file that it is ours, before anything in it is believed. */
export const applicationId = 0x5759_424c;

/** Bits of a place that are the position. */
const positionBits = 40;

/** SQL for a place. Both go through `<<` and `|`, because node:sqlite binds numbers as REAL, which `+` would keep. */
export const place = (topic: string, position: string): string => `((${topic} << ${positionBits}) | ${position})`;

/** SQL for the position of a place. */
export const position = (placeOf: string): string => `(${placeOf} & ${2 ** positionBits - 1})`;

/** A message's own fields, the same in the log, among the delayed and among the dead letters. */
export const contentColumns = 'id, key, type, content_type, headers, published_at, expires_at, body';

const contentDefinition = `
  id TEXT,
  key TEXT,
  type TEXT,
  content_type TEXT,
  headers TEXT,
  published_at INTEGER,
  expires_at INTEGER,
  body BLOB NOT NULL`;

/** Where a group's copy of a message is. */
export const state = {
  /** May be handed out. */
  ready: 0,
  /** In a member's hands until its lease ends, at `until`. */
  out: 1,
  /** Waits for its time, `until`. */
  delayed: 2,
  /** Ordered topics: waits for the one of its key that comes before it. */
  behind: 3,
  /** Ready, but only for `receiveAlone`. */
  alone: 4,
  /** Ordered topics: a redriven one, which comes when the group has read up to its `line`. */
  later: 5,
} as const;

/**
 * By version: what makes it of the version before. Never changed once released; a new version is a new entry. A group's
 * copies are made when its messages are handed out: until then they stand in the log alone, once for all groups.
 */
export const migrations: readonly string[] = [
  `
  CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

  CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    ordered INTEGER NOT NULL DEFAULT 0,
    lanes INTEGER NOT NULL DEFAULT 1,
    -- Positions of the oldest message that is kept, and of the next one.
    log_start INTEGER NOT NULL DEFAULT 0,
    log_end INTEGER NOT NULL DEFAULT 0,
    -- Of the bodies between the two.
    bytes INTEGER NOT NULL DEFAULT 0,
    -- Of the newest message: time in a log never goes back, so that a time can be looked up.
    stored_at INTEGER NOT NULL DEFAULT 0
  ) STRICT;

  CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL,
    name TEXT NOT NULL,
    -- The position it reads next.
    next INTEGER NOT NULL,
    -- Counts seeks: what was in hand before one is lost.
    epoch INTEGER NOT NULL DEFAULT 0,
    -- A broadcast's: gone at this time unless its member renews it.
    expires_at INTEGER,
    UNIQUE (topic, name)
  ) STRICT;
  CREATE INDEX groups_expiry ON groups (expires_at) WHERE expires_at IS NOT NULL;

  -- Those from log_start on are the log; before it stand only those that a copy still refers to.
  CREATE TABLE messages (
    place INTEGER PRIMARY KEY,
    stored_at INTEGER NOT NULL,${contentDefinition}
  ) STRICT;

  CREATE TABLE delayed (
    number INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL,
    deliver_at INTEGER NOT NULL,${contentDefinition}
  ) STRICT;
  CREATE INDEX delayed_due ON delayed (topic, deliver_at);

  CREATE TABLE copies (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    grp INTEGER NOT NULL,
    place INTEGER NOT NULL,
    -- Where it stands among the group's: its position, for a redriven one of an ordered topic the end of the log then.
    line INTEGER NOT NULL,
    state INTEGER NOT NULL,
    until INTEGER,
    -- Counts what happened to it: who settles must name the count of the handing-out.
    token INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 1,
    deliveries INTEGER NOT NULL DEFAULT 0,
    alone INTEGER NOT NULL DEFAULT 0,
    -- Redriven: its expiry counts no more.
    forever INTEGER NOT NULL DEFAULT 0,
    -- Of ordered topics.
    key TEXT
  ) STRICT;
  CREATE INDEX copies_state ON copies (grp, state, line);
  CREATE INDEX copies_until ON copies (grp, until) WHERE until IS NOT NULL;
  CREATE INDEX copies_key ON copies (grp, key, line) WHERE key IS NOT NULL;
  CREATE INDEX copies_place ON copies (place);

  CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    grp INTEGER NOT NULL,
    entry TEXT NOT NULL,
    place INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    details TEXT NOT NULL,${contentDefinition}
  ) STRICT;
  CREATE INDEX dead_letters_walk ON dead_letters (grp, number);
  CREATE UNIQUE INDEX dead_letters_entry ON dead_letters (grp, entry);

  -- What was removed and may have left rows behind, which are swept a few at a time.
  CREATE TABLE removed (topic INTEGER, grp INTEGER) STRICT;
  CREATE TRIGGER topics_removed AFTER DELETE ON topics BEGIN
    INSERT INTO removed (topic) VALUES (OLD.id);
    DELETE FROM groups WHERE topic = OLD.id;
  END;
  CREATE TRIGGER groups_removed AFTER DELETE ON groups BEGIN
    INSERT INTO removed (grp) VALUES (OLD.id);
  END;

  -- For programs without Waybill: what the topics keep, and a way in.
  CREATE VIEW log AS
    SELECT topics.name AS topic, ${position('place')} AS position, messages.stored_at, messages.id, key, type,
      content_type, headers, published_at, expires_at, body
    FROM topics JOIN messages ON place BETWEEN ${place('topics.id', 'log_start')} AND ${place('topics.id', 'log_end')};
  CREATE VIEW inbox AS
    SELECT name AS topic, CAST(NULL AS TEXT) AS key, CAST(NULL AS TEXT) AS content_type, CAST(NULL AS TEXT) AS headers,
      CAST(NULL AS BLOB) AS body
    FROM topics WHERE 0;
  CREATE TRIGGER inbox_publish INSTEAD OF INSERT ON inbox BEGIN
    SELECT RAISE(ABORT, 'there is no topic of this name')
      WHERE NOT EXISTS (SELECT 1 FROM topics WHERE name = NEW.topic);
    UPDATE topics SET stored_at = max(stored_at, CAST(unixepoch('subsec') * 1000 AS INTEGER)) WHERE name = NEW.topic;
    INSERT INTO messages (place, stored_at, key, content_type, headers, body)
      SELECT ${place('topics.id', 'log_end')}, stored_at, NEW.key, NEW.content_type, NEW.headers, CAST(NEW.body AS BLOB)
      FROM topics WHERE name = NEW.topic;
    UPDATE topics SET log_end = log_end + 1, bytes = bytes + length(CAST(NEW.body AS BLOB)) WHERE name = NEW.topic;
  END;
  `,
];
