-- What was done, by whom. Append-only: no statement of wsctl changes or deletes a row. A chain per target: `digest` covers
-- the row and the digest of the row before it, so that a changed or removed row is found.
CREATE TABLE IF NOT EXISTS audit (
  cluster $name NOT NULL,
  target $name NOT NULL,
  sequence $bigint NOT NULL CHECK (sequence >= 1),
  at $time NOT NULL,
  kind $name NOT NULL,
  verb $name NOT NULL,
  action $name NOT NULL,
  os_user $name NOT NULL,
  sudo_user $name NULL,
  ssh_origin $name NULL,
  process $name NOT NULL,
  operation $name NOT NULL,
  request_id $name NULL,
  plan $longtext NOT NULL,
  before_state $longtext NULL,
  after_state $longtext NULL,
  detail $longtext NOT NULL,
  digest $name NOT NULL,
  PRIMARY KEY (cluster, target, sequence)
) $options
