-- Leases, where no Redis is configured. A row whose time is over counts as absent.
CREATE TABLE IF NOT EXISTS leases (
  cluster $name NOT NULL,
  name $name NOT NULL,
  token $name NOT NULL,
  holder $text NOT NULL,
  command $text NOT NULL,
  acquired_at $time NOT NULL,
  expires_at $time NOT NULL,
  PRIMARY KEY (cluster, name)
) $options
