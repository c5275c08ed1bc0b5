-- The last generation of users who were removed. Their next placement counts on from it: a generation is a fencing
-- token, and who holds an old one must never be taken for the holder of a new placement.
CREATE TABLE IF NOT EXISTS retired (
  cluster $name NOT NULL,
  user $name NOT NULL,
  generation $bigint NOT NULL CHECK (generation >= 1),
  PRIMARY KEY (cluster, user)
) $options
