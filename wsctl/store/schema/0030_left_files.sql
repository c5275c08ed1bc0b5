-- What nodes that failed have of users who went on elsewhere: from when on is news, and what became of it.
CREATE TABLE IF NOT EXISTS left_files (
  cluster $name NOT NULL,
  user $name NOT NULL,
  node $name NOT NULL,
  generation $bigint NOT NULL CHECK (generation >= 0),
  seen_at $bigint NOT NULL CHECK (seen_at >= 0),
  state $name NOT NULL,
  left_at $time NOT NULL,
  newer_files $bigint NULL,
  newer_bytes $bigint NULL,
  PRIMARY KEY (cluster, user, node, generation)
) $options
