-- The last row of each target's chain, so that its removal is found too.
CREATE TABLE IF NOT EXISTS audit_heads (
  cluster $name NOT NULL,
  target $name NOT NULL,
  sequence $bigint NOT NULL CHECK (sequence >= 1),
  digest $name NOT NULL,
  at $time NOT NULL,
  PRIMARY KEY (cluster, target)
) $options
