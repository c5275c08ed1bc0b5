-- The last network counter seen of each user's container.
CREATE TABLE IF NOT EXISTS samples (
  cluster $name NOT NULL,
  user $name NOT NULL,
  container_id $name NOT NULL,
  tx_bytes $bigint NOT NULL CHECK (tx_bytes >= 0),
  observed_at $time NOT NULL,
  PRIMARY KEY (cluster, user)
) $options
