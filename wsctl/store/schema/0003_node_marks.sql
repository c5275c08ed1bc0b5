-- What operators recorded about nodes.
CREATE TABLE IF NOT EXISTS node_marks (
  cluster $name NOT NULL,
  node $name NOT NULL,
  state $name NOT NULL,
  reason $text NOT NULL,
  changed_at $time NOT NULL,
  changed_by $name NOT NULL,
  PRIMARY KEY (cluster, node)
) $options
