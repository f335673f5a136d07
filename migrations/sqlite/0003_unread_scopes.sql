-- Searches look at changed entries of their own fleet only.
ALTER TABLE memory_unread RENAME TO memory_unread_before;

-- The entries whose text has changed since their words were read. An id may be given again, in another scope too: then it
-- stands here for both.
CREATE TABLE memory_unread (
    scope INTEGER NOT NULL,
    id    INTEGER NOT NULL,
    PRIMARY KEY (scope, id)
) STRICT, WITHOUT ROWID;

-- Of an entry that is gone nobody knows the scope any more, and nobody but the writer looks for it: 0 is no scope's number.
INSERT INTO memory_unread (scope, id)
SELECT coalesce(m.scope, 0), u.id FROM memory_unread_before u LEFT JOIN memory m ON m.id = u.id;
DROP TABLE memory_unread_before;
