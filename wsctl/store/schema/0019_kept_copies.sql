-- Copies of users' files that aren't the ones they work on: being made by a move, left by one, or put aside.
CREATE TABLE IF NOT EXISTS kept_copies (
  cluster $name NOT NULL,
  user $name NOT NULL,
  node $name NOT NULL,
  number $bigint NOT NULL CHECK (number >= 1),
  state $name NOT NULL,
  since $time NOT NULL,
  expires_at $time NULL,
  PRIMARY KEY (cluster, user, node, number)
) $options
