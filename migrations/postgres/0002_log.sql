-- The generation of the log that the rest was made of.
CREATE TABLE log (generation bigint NOT NULL);
CREATE UNIQUE INDEX log_only ON log ((true));
GRANT SELECT, INSERT ON log TO ringforge_project;
