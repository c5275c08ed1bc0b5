-- What speaks against nodes for a short while. A row whose time is over counts as absent.
CREATE TABLE IF NOT EXISTS node_reports (
  cluster $name NOT NULL,
  node $name NOT NULL,
  kind $name NOT NULL,
  count $int NOT NULL CHECK (count >= 1),
  reason $text NOT NULL,
  reported_at $time NOT NULL,
  expires_at $time NOT NULL,
  seen_at $time NULL,
  PRIMARY KEY (cluster, node, kind)
) $options
