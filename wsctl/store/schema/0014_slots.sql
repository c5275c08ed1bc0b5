-- Who is starting something on a node. A row whose time is over counts as absent.
CREATE TABLE IF NOT EXISTS slots (
  cluster $name NOT NULL,
  node $name NOT NULL,
  slot $int NOT NULL CHECK (slot >= 0),
  token $name NOT NULL,
  expires_at $time NOT NULL,
  PRIMARY KEY (cluster, node, slot),
  CONSTRAINT slots_token UNIQUE (cluster, node, token)
) $options
