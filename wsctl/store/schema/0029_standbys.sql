-- Copies of users' files on other nodes than theirs, made in advance; as_of is empty until the first is complete.
CREATE TABLE IF NOT EXISTS standbys (
  cluster $name NOT NULL,
  user $name NOT NULL,
  node $name NOT NULL,
  source $name NOT NULL,
  generation $bigint NOT NULL CHECK (generation >= 0),
  seen_at $bigint NOT NULL CHECK (seen_at >= 0),
  as_of $time NULL,
  finished_at $time NULL,
  bytes $bigint NULL,
  PRIMARY KEY (cluster, user, node)
) $options
